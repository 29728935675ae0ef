"""The supervisor and the worker, with launchers made for the purpose: ones that hang, lie, or run on another host."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from hvdkit.errors import broken_off
from hvdkit.launch import records, streams
from hvdkit.launch.plan import LaunchPlan
from hvdkit.launch.supervise import Signals, supervise

pytestmark = pytest.mark.timeout(120)  # what is tested here hangs when it is broken

# A launcher that never ends by itself, ignores SIGTERM, and starts two ranks.
STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
import subprocess
for i in range(2):
    env = {**os.environ, "HOROVOD_RANK": str(i), "HOROVOD_SIZE": "2"}
    subprocess.Popen([sys.executable, "-m", "hvdkit.launch.worker", *sys.argv[1:]], env=env)
time.sleep(600)
"""


@pytest.fixture
def supervised(cluster, monkeypatch):
    """Carry out a plan made by hand; returns the exit code, both outputs and the seconds it took."""
    for name, value in cluster.environ({"HVDKIT_GRACE_SECONDS": "1"}).items():
        monkeypatch.setenv(name, value)

    def carry_out(*argv, **options):
        out, err = io.BytesIO(), io.BytesIO()
        began = time.monotonic()
        plan = LaunchPlan("stubborn", "it was made for this", tuple(argv), 2, **options)
        with Signals() as signals:
            code = supervise(plan, signals, stdout=out, stderr=err)
        return code, out.getvalue().decode(), err.getvalue().decode(), time.monotonic() - began

    return carry_out


def test_a_launcher_that_hangs_after_a_failure_is_ended(cluster, supervised):
    script = cluster.script("if rank: raise ValueError('boom')\ntime.sleep(600)")
    code, _, err, seconds = supervised(sys.executable, cluster.script(STUBBORN, "launcher.py"), script)
    assert code == 1
    assert "rank 1 of 2" in err
    assert err.endswith("ValueError: boom\n")
    assert seconds < 30
    assert cluster.gone()


def test_a_launcher_that_hangs_after_the_last_rank_is_ended(cluster, supervised):
    # Both ranks share one pipe here, and an unbuffered print() is two writes.
    script = cluster.script("os.write(1, b'ok\\n')")
    code, out, err, seconds = supervised(sys.executable, cluster.script(STUBBORN, "launcher.py"), script)
    assert (code, err) == (0, "")
    assert sorted(out.splitlines()) == ["[1] ok", "ok"]
    assert seconds < 30
    assert cluster.gone()


def test_a_rank_that_ends_early_in_good_order_does_not_end_the_others(cluster, supervised):
    script = cluster.script("if rank == 0: time.sleep(4); print('the last word')")
    code, out, _, _ = supervised(sys.executable, cluster.script(STUBBORN, "launcher.py"), script)
    assert code == 0
    assert "the last word" in out


def test_what_a_rank_leaves_behind_is_ended(cluster, supervised):
    seconds = f"600.{os.getpid()}"  # recognizes this process alone
    words = f"['sleep', '{seconds}'], start_new_session=True, env={{}}"
    script = cluster.script(f"import subprocess\nsubprocess.Popen({words})\nprint('ok')")
    code, out, _, _ = supervised(sys.executable, "-m", "hvdkit.launch.worker", script)
    assert (code, out) == (0, "ok\n")
    assert subprocess.run(["pgrep", "-f", f"^sleep {seconds}"], check=False).returncode == 1
    assert cluster.gone()


def test_a_host_that_does_not_share_the_run_directory(supervised, cluster):
    script = cluster.script("if rank: raise ValueError('boom')")
    far = [f"{name}={value}" for name, value in {"HOROVOD_RANK": 1, "HOROVOD_SIZE": 2}.items()]
    worker = [sys.executable, "-m", "hvdkit.launch.worker", script]
    code, _, err, _ = supervised("env", "HVDKIT_RUN_DIR=/nonexistent", *far, *worker)
    assert code == 1
    assert "rank 1 of 2" in err
    assert err.endswith("ValueError: boom\n")
    assert "\x1e" not in err


def test_a_launcher_that_fails_by_itself(supervised):
    code, _, err, _ = supervised(sys.executable, "-c", "import sys; print('no route', file=sys.stderr); sys.exit(9)")
    assert code == 9
    assert "no route" in err
    assert "the launcher stubborn failed (exit code 9)" in err


def test_secrets_reach_the_rank_by_a_private_file(cluster, supervised, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hush")
    seen = "print(os.environ.get('MY_TOKEN'), oct(os.stat(os.environ['HVDKIT_RUN_DIR']).st_mode)[-3:])"
    worker = [sys.executable, "-m", "hvdkit.launch.worker", cluster.script(seen)]
    probe = "import os, subprocess, sys; assert 'MY_TOKEN' not in os.environ; sys.exit(subprocess.call(sys.argv[1:]))"
    code, out, err, _ = supervised(sys.executable, "-c", probe, *worker, private=("MY_TOKEN",))
    assert (code, out, err) == (0, "hush 700\n", "")


def lone_worker(cluster, *before, stderr=None):
    """A worker that nobody supervises, whose rank has said hello."""
    script = cluster.script("print('hello', flush=True)\ntime.sleep(600)")
    process = cluster.start([*before, sys.executable, "-m", "hvdkit.launch.worker", script], stderr=stderr)
    assert process.stdout.readline() == b"hello\n"
    return process


def test_a_rank_dies_with_its_worker(cluster):
    process = lone_worker(cluster)
    process.kill()
    process.wait()
    assert cluster.gone(within=5)


def test_a_rank_ends_when_the_launcher_that_started_it_is_gone(cluster):
    process = lone_worker(cluster, sys.executable, "-c", "import subprocess, sys; subprocess.call(sys.argv[1:])")
    process.kill()
    process.wait()
    assert cluster.gone(within=20)


def test_a_rank_ends_when_nobody_reads_it_any_more(cluster):
    process = lone_worker(cluster, stderr=subprocess.PIPE)
    process.stderr.close()
    assert process.wait(20) == 143
    assert cluster.gone()


def test_a_worker_passes_a_signal_on(cluster):
    process = lone_worker(cluster)
    process.terminate()
    assert process.wait(20) == 143
    assert cluster.gone()


TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 1, in <module>\n'
# As Gloo says it.
CLOSED = "Connection closed by peer [127.0.0.1]:4711"
RESET = "Read error [127.0.0.1]:4711: Connection reset by peer"
LATE = "Timed out waiting 30000ms for recv operation to complete"


def record(rank, ended, **fields) -> records.Record:
    return records.Record(rank, "host", "host", 1, **{"code": 1, "ended": ended, **fields})


@pytest.mark.parametrize(
    "others",
    [
        [record(0, 1.0, tail="tensorflow...: HorovodInternalError: shut down")],
        [record(0, 1.0, code=143, ordered=15)],
        [record(0, 1.0, code=143, signal=15)],
        [record(0, 1.0, code=0)],
        [record(0, 3.0), record(2, 9.0, code=137, signal=9)],
        [record(0, 1.0, tail="Horovod has been shut down"), record(2, 1.5, code=1, ordered=15)],
        [record(0, 1.0, tail=f"{TRACEBACK}hvdkit.errors.CommunicationError: {broken_off('missing ranks: 1', 0)}")],
        [record(0, 1.0, tail=f"{TRACEBACK}UnknownError: [/b/gloo/transport/tcp/pair.cc:9] {CLOSED}")],
        [record(0, 1.0, tail=f"{TRACEBACK}UnknownError: [/b/gloo/transport/tcp/pair.cc:8] {RESET}")],
        [record(0, 1.0, tail=f"{TRACEBACK}UnknownError: [/b/gloo/transport/tcp/buffer.cc:7] {LATE}")],
    ],
)
def test_the_cause_is_blamed_and_not_its_consequences(others):
    assert records.first_failure([*others, record(1, 2.0, code=3)]).rank == 1


@pytest.mark.parametrize(
    "own",
    [
        "TimeoutError: Timed out waiting for a lock",
        "sqlalchemy.exc.TimeoutError: Timed out waiting 3000ms for a connection",
        "ConnectionResetError: [Errno 104] Connection reset by peer",
        "requests.exceptions.ConnectionError: ('Connection aborted.', OSError(104, 'Connection reset by peer'))",
        "paramiko.ssh_exception.SSHException: Connection closed by peer",
    ],
)
@pytest.mark.parametrize("lost", ["HorovodInternalError: shut down", str(broken_off("missing ranks: 1", 0))])
def test_a_rank_is_blamed_for_an_error_of_its_own_that_sounds_like_a_lost_peer(own, lost):
    cause = record(1, 2.0, code=143, signal=15, ordered=15, tail=f"{TRACEBACK}{own}")
    assert records.first_failure([record(0, 1.0, tail=f"{TRACEBACK}{lost}"), cause]).rank == 1
    assert cause.exit_code == 1 and not cause.told_to_end


def test_a_sigkill_of_the_clean_up_is_not_blamed():
    lost = record(0, 1.0, tail="HorovodInternalError")
    assert records.first_failure([lost, record(1, 6.0, code=137, signal=9)]).rank == 0


@pytest.mark.parametrize("said", ["HorovodInternalError", str(broken_off("missing ranks: 1", 0))])
def test_a_rank_that_left_too_early_is_named(said):
    lost = record(0, 2.0, tail=said)
    text = records.explain_failure(lost, {1: record(1, 1.0, code=0), 0: lost}, 2)
    assert "Rank 1 ended with exit code 0 before that" in text
    waits = record(1, 1.0, code=143, signal=15, ordered=15)
    assert "before that" not in records.explain_failure(lost, {1: waits, 0: lost}, 2)
    text = records.explain_failure(lost, {1: replace(waits, left=True), 0: lost}, 2)
    assert "Rank 1 came to its end before that and left the others waiting." in text


def test_lines_keep_every_byte():
    lines = streams.Lines()
    data = b"one\ntwo\rthree\r\nfour"
    pieces = [piece for byte in data for piece in lines.feed(bytes([byte]))]
    assert b"".join([*pieces, lines.flush()]) == data


def test_a_line_without_an_end_is_passed_on_in_pieces():
    lines = streams.Lines()
    held = sum(len(piece) for _ in range(40) for piece in lines.feed(b"x" * 65536))
    assert 40 * 65536 - held < 2**21


def test_the_tail_is_bounded_and_ends_with_the_end():
    tail = streams.Tail(lines=3, size=100)
    for number in range(1000):
        tail.feed(f"line {number}\n".encode())
    assert tail.text().splitlines() == ["line 997", "line 998", "line 999"]
    assert tail._held < 300


def test_tags_come_off_whole_and_torn_lines():
    own = streams.Tail()
    take = streams.tags_off(own)
    assert take(b"[0]<stdout>:a [1]<stdout>: b\n") == b"a [1]<stdout>: b\n"
    assert take(b"Process 1 exit with status code 1.\n") == b""
    long = b"y" * 70_000
    assert take(b"[0]<stdout>:" + long + b"[1]<stdout>:z\n") == long + b"z\n"
    assert take(b"yyy\n") == b"yyy\n"
    assert take(b"Terminating remaining workers\n") == b""
    assert take(b"[1]<stderr>:" + long) == long
    assert take(long) == long
    assert take(b"end\n") == b"end\n"
    assert take(b"exit\n") == b""
    assert own.text().splitlines() == ["Process 1 exit with status code 1.", "Terminating remaining workers", "exit"]
