"""Jobs that fail, or save and leave: what is started again, and with which exit code it ends.

Most of it with a light launcher that cleans up as horovodrun and mpirun do, the main cases with these two as well.
"""

from __future__ import annotations

import re
import signal
import sys
import time

import pytest

from hvdkit.errors import UsageError
from hvdkit.launch import records, run
from hvdkit.launch.restarts import pause_before

pytestmark = pytest.mark.timeout(180)  # what is tested here hangs when it is broken

# One write a line: both ranks of the light launcher share one pipe.
RESTART = 'restart = os.environ["HVDKIT_RESTART"]\nos.write(1, f"start {restart}\\n".encode())\n'


def starts(ended) -> list[str]:
    """The starts that were seen; the rank that fails first may end the other one before its first line."""
    return sorted(set(re.findall(r"start (\d)", ended.out)))


KILLED = f"""{RESTART}
if restart == "0":
    if rank: os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(120)
"""


def test_a_rank_that_is_killed_is_started_again_with_all_others(cluster, light):
    ended = cluster.finish(cluster.start(light(KILLED, 3)))
    assert ended.code == 0, ended.err
    assert starts(ended) == ["0", "1"]
    assert "rank 1 of 2" in ended.err
    assert ended.err.endswith("hvdkit: restart 1 of 3 in 1 s, after SIGKILL (exit code 137).\n")
    assert cluster.gone()
    assert cluster.tidy()


@pytest.mark.dist
def test_the_number_of_restarts_reaches_other_hosts(cluster, launcher):
    ended = cluster.run("-np", 2, "--dry-run", cluster.script(""), launcher=launcher)
    assert "add:       HVDKIT_RESTART=0\n" in ended.out
    assert launcher == "horovodrun" or "-x HVDKIT_RESTART " in ended.out


@pytest.mark.dist
def test_a_rank_that_is_killed_is_started_again_by_hvdkit_run(cluster, launcher):
    ended = cluster.run("-np", 2, "--max-restarts", 3, cluster.script(KILLED), launcher=launcher)
    assert ended.code == 0, ended.err
    assert starts(ended) == ["0", "1"]
    assert ended.err.count("hvdkit: restart") == 1
    assert cluster.gone()
    assert cluster.tidy()


def test_when_no_restart_is_left_the_last_failure_is_the_last_word(cluster, light):
    script = RESTART + "if rank: raise ValueError(f'boom {restart}')\ntime.sleep(120)"
    ended = cluster.finish(cluster.start(light(script, 2)))
    assert ended.code == 1
    assert starts(ended) == ["0", "1", "2"]
    assert re.findall(r"restart (\d of \d in \d s), after exit code 1\.\n", ended.err) == [
        "1 of 2 in 1 s",
        "2 of 2 in 2 s",
    ]
    assert ended.err.endswith("ValueError: boom 2\n")
    assert ended.seconds > 3
    assert cluster.gone()


def test_without_restarts_there_is_one_start(cluster, light):
    ended = cluster.finish(cluster.start(light(RESTART + "sys.exit(3 if rank else 0)")))
    assert ended.code == 3
    assert starts(ended) == ["0"]
    assert "restart" not in ended.err


def test_the_pause_doubles_up_to_half_a_minute():
    assert [pause_before(number) for number in (1, 2, 3, 4, 5, 6, 7)] == [1, 2, 4, 8, 16, 30, 30]


def test_ranks_that_saved_are_started_again(cluster, light):
    ended = cluster.finish(cluster.start(light(RESTART + "sys.exit(75 if restart < '2' else 0)", 5)))
    assert ended.code == 0
    assert starts(ended) == ["0", "1", "2"]
    assert ended.err.count("the ranks saved and should be started again (exit code 75).\n") == 2
    assert ended.err.endswith("hvdkit: restart 2 of 5 in 2 s, after the ranks saved (exit code 75).\n")


SAVED_AND_LEFT = "hvdkit: the ranks saved and should be started again (exit code 75).\n"


def test_ranks_that_saved_end_with_75(cluster, light):
    ended = cluster.finish(cluster.start(light("sys.exit(75)")))
    assert (ended.code, ended.err) == (75, SAVED_AND_LEFT)
    assert cluster.gone()


@pytest.mark.dist
@pytest.mark.parametrize(
    "others", ["sys.exit(75)", "time.sleep(120)", "signal.signal(15, signal.SIG_IGN); time.sleep(120)"]
)
def test_ranks_that_saved_end_hvdkit_run_with_75(cluster, launcher, others):
    script = cluster.script(f"if rank == 0: sys.exit(75)\n{others}")
    ended = cluster.run("-np", 3, script, launcher=launcher, env={"HVDKIT_GRACE_SECONDS": "3"})
    assert ended.code == 75
    assert ended.err.endswith(SAVED_AND_LEFT)
    assert ended.seconds < 30
    assert cluster.gone()
    assert cluster.tidy()


LEAVES_SLOWLY = """
import atexit
if rank:
    atexit.register(lambda: (time.sleep(4), open("left", "w").close()))  # the launcher's patience is one second
    open("leaving", "w").close()
while not os.path.exists("leaving"):
    time.sleep(0.01)
sys.exit(75)
"""


def test_a_rank_that_is_leaving_is_not_hit_by_the_launcher(cluster, light):
    ended = cluster.finish(cluster.start(light(LEAVES_SLOWLY)))
    assert ended.code == 75
    assert (cluster.directory / "left").exists()
    assert ended.seconds < 10


def worker(cluster, script):
    """A worker that nobody supervises, in a run directory where another rank has started."""
    directory = cluster.directory / "run"
    directory.mkdir()
    records.write(str(directory), records.Record(1, "host", "host", 1))
    env = {"HVDKIT_RUN_DIR": str(directory), "HVDKIT_RUN_ID": "test"}
    return cluster.start([sys.executable, "-m", "hvdkit.launch.worker", cluster.script(script)], env), str(directory)


def ended_record(directory, within=20.0):
    until = time.monotonic() + within
    while 0 not in records.read_records(directory, "ended") and time.monotonic() < until:
        time.sleep(0.05)
    return records.read_records(directory, "ended")[0]


def test_a_worker_that_waits_for_the_others_obeys(cluster):
    process, directory = worker(cluster, "sys.exit(75)")
    assert ended_record(directory).saved
    time.sleep(1)
    assert process.poll() is None
    process.terminate()
    ended = cluster.finish(process, 20)
    assert ended.code == 75
    assert ended.seconds < 5  # it would wait ten seconds


def test_a_rank_that_was_asked_to_save_and_fails_later_is_to_blame(cluster):
    process, directory = worker(cluster, "signal.signal(10, lambda *_: sys.exit(3))\nprint('ready')\ntime.sleep(120)")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert cluster.finish(process, 20).code == 3
    assert not ended_record(directory).told_to_end


def record(rank, ended, **fields) -> records.Record:
    return records.Record(rank, "host", "host", 1, **{"code": 75, "ended": ended, **fields})


TRACEBACK = "Traceback (most recent call last):\nValueError: boom"


@pytest.mark.parametrize(
    ("others", "rank"),
    [
        ([record(0, 1.0, code=137, signal=9), record(2, 1.0, code=143, signal=15)], 0),  # killed before: the cause
        ([record(0, 3.0, code=137, signal=9), record(2, 3.0, code=143, signal=15, ordered=15)], 1),  # swept
        ([record(0, 1.0, code=143, signal=15), record(2, 1.0, code=138, signal=10)], 1),  # had no handler yet
        ([record(0, 1.0, code=1, tail="HorovodInternalError")], 1),  # lost those that left
        ([record(0, 3.0, code=1, tail=TRACEBACK)], 0),  # an exception of its own: what was saved may not be whole
        ([record(0, 3.0, code=143, signal=15, tail=TRACEBACK)], 1),  # an old traceback on its screen, and swept
        ([record(0, 1.0, code=0)], 1),
    ],
)
def test_who_is_the_cause_where_a_rank_saved(others, rank):
    assert records.first_failure([*others, record(1, 2.0, ordered=15)]).rank == rank


def test_a_number_of_restarts_that_cannot_be(tmp_path):
    script = tmp_path / "train.py"
    script.touch()
    with pytest.raises(UsageError, match="at least 0"):
        run([str(script)], 2, max_restarts=-1)


def test_a_rank_of_hvdkit_train_starts_nothing_again(cluster):
    (cluster.directory / "c.yaml").write_text("epochs: 1\n")
    words = [sys.executable, "-m", "hvdkit", "train", "c.yaml", "--max-restarts", "1"]
    ended = cluster.finish(cluster.start(words, {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}))
    assert ended.code == 1
    assert "--max-restarts is for the process that starts the ranks" in ended.err


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "ranks"), [("horovodrun", 2), ("mpirun", 1)], indirect=["launcher"])
def test_hvdkit_train_is_started_again(cluster, launcher, ranks):
    (cluster.directory / "mine.py").write_text(
        "import os, sys\n"
        "def data(**_):\n"
        "    restart = os.environ['HVDKIT_RESTART']\n"
        "    print('start', restart, flush=True)\n"
        "    sys.exit(75 if restart == '0' else 0)\n"
    )
    (cluster.directory / "c.yaml").write_text(f"data: {{name: 'mine:data'}}\nlaunch: {{launcher: {launcher}}}\n")
    words = [sys.executable, "-m", "hvdkit", "train", "c.yaml", "-np", str(ranks), "--max-restarts", "2"]
    ended = cluster.finish(cluster.start(words))
    assert ended.code == 0, ended.err
    assert starts(ended) == ["0", "1"]
    assert ended.err.count("hvdkit: restart") == 1
