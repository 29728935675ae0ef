"""A job that is told to end before its training has begun has lost nothing: 75, at whatever moment it is."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest

from hvdkit.launch.plan import LaunchPlan
from hvdkit.launch.program import says_when_it_begins
from hvdkit.launch.records import Record
from hvdkit.launch.restarts import supervise_with_restarts
from hvdkit.launch.signals import Signals, leave

pytestmark = pytest.mark.timeout(180)  # what is tested here hangs when it is broken

TERM, USR1, INT = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT

# As long as TensorFlow takes, or longer.
IMPORTS = "os.write(1, b'ready\\n')\ntime.sleep(120)\nimport hvdkit as hvd\nhvd.init()"
BEGUN = """
import hvdkit as hvd
from hvdkit.utils.training_start import training_begins
training_begins()
os.write(1, b"ready\\n")
time.sleep(120)
"""
SLOW_TO_START = ("sh", "-c", 'echo ready; sleep 60; exec "$@"', "sh")


def says(number: int) -> str:
    again = "nothing is lost, and the job should be started again (exit code 75)"
    return f"hvdkit: ended by {signal.Signals(number).name} before the training began: {again}.\n"


@pytest.mark.parametrize("number", [TERM, USR1])
@pytest.mark.parametrize(("script", "before"), [(IMPORTS, ()), ("", SLOW_TO_START)])
def test_before_the_ranks_are_up(cluster, light, number, script, before):
    ended = cluster.signalled(light(script, 3, before=before), [number])
    assert ended.code == 75
    assert ended.err == says(number)
    assert ended.seconds < 20
    assert cluster.gone()
    assert cluster.tidy()


def test_ctrl_c_wants_no_new_start(cluster, light):
    ended = cluster.signalled(light(IMPORTS, 3), [INT])
    assert ended.code == 130
    assert cluster.gone()


def test_a_rank_that_has_begun_and_dies_has_lost_what_it_did(cluster, light):
    ended = cluster.signalled(light(BEGUN, 3), [TERM])
    assert ended.code == 143
    assert ended.err == "hvdkit: ended by SIGTERM; all 2 ranks are gone.\n"


def test_a_rank_that_fails_by_itself_wants_no_new_start(cluster, light):
    script = """
    signal.signal(signal.SIGTERM, lambda *_: 1 / 0)
    os.write(1, b"ready\\n")
    time.sleep(120)
    import hvdkit as hvd
    """
    ended = cluster.signalled(light(script), [TERM])
    assert ended.code == 143


# Rank 1 comes late, and rank 0 waits for it in hvd.init().
IN_INIT = "import hvdkit as hvd\nos.write(1, b'ready\\n')\nif rank: time.sleep(120)\nhvd.init()"
AFTER_INIT = "import hvdkit as hvd\nhvd.init()\nhvd.broadcast_object(1)\nos.write(1, b'ready\\n')\ntime.sleep(120)"
BY_HAND = "import hvdkit as hvd\nhvd.init()\nhvd.allreduce(1.0)\nos.write(1, b'ready\\n')\ntime.sleep(120)"


@pytest.mark.dist
@pytest.mark.parametrize(
    ("launcher", "script", "code"),
    [
        ("horovodrun", IN_INIT, 75),
        ("mpirun", IN_INIT, 75),
        ("mpirun", AFTER_INIT, 75),
        ("mpirun", BY_HAND, 143),
    ],
    indirect=["launcher"],
)
def test_with_real_ranks(cluster, launcher, script, code):
    process = cluster.ready(cluster.command("-np", 2, cluster.script(script), launcher=launcher))
    process.send_signal(TERM)
    ended = cluster.finish(process, 60)
    assert ended.code == code, ended.err
    assert cluster.gone()
    assert cluster.tidy()


@pytest.mark.parametrize("number", [TERM, USR1, INT])
def test_before_anything_is_started(number):
    err = io.BytesIO()
    plan = LaunchPlan("none", "it is never started", ("/nonexistent",), 2)
    with Signals(), Signals() as signals:  # the command line's, and the launch's inside
        os.kill(os.getpid(), number)
        code = supervise_with_restarts(plan, signals, 3, stdout=io.BytesIO(), stderr=err)
    if number == INT:
        assert code == 130
        assert err.getvalue() == b"hvdkit: ended by Ctrl-C before the training began (exit code 130).\n"
    else:
        assert (code, err.getvalue().decode()) == (75, says(number))


def test_who_collects_inside_has_what_came_outside():
    before = signal.getsignal(USR1)  # a fit that an exception has left may have left its own
    with Signals():
        os.kill(os.getpid(), USR1)
        with Signals() as signals:
            assert signals.received == [USR1]
        assert leave() == 75
        assert leave() is None
    assert signal.getsignal(USR1) is before


@pytest.mark.dist
def test_the_command_line_collects_at_once(cluster, launcher):
    script = cluster.script("open('ran', 'w')")
    text = f"""
    from hvdkit import cli, launch
    real = launch.run
    launch.run = lambda *args, **options: (os.kill(os.getpid(), signal.SIGTERM), real(*args, **options))[1]
    cli.main(["run", "-np", "2", "--launcher", {launcher!r}, {script!r}])
    """
    ended = cluster.finish(cluster.start([sys.executable, cluster.script(text, "early.py")]))
    assert (ended.code, ended.err) == (75, says(TERM))
    assert not (cluster.directory / "ran").exists()


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("import hvdkit as hvd", True),
        ("import os, hvdkit", True),
        ("import os\nif os:\n    from hvdkit import init", True),
        ("from hvdkit.launch.identity import launch_info", False),
        ("import hvdkit.utils.env", False),
        ("# import hvdkit", False),
        ("import hvdkit_of_mine", False),
        ("import os  # hvdkit", False),
        ("import horovod.tensorflow as hvd", False),
    ],
)
def test_which_programs_say_when_they_begin(tmp_path, monkeypatch, text, known):
    (tmp_path / "pack").mkdir()
    for name in ("script.py", "pack/__main__.py", "pack/inner.py"):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    programs = (["script.py", "--lr", "1"], ["pack"], ["-m", "pack"], ["-m", "pack.inner"], ["-m", "script"])
    assert [says_when_it_begins(program) for program in programs] == [known] * 5


def test_programs_that_are_nowhere_say_nothing():
    assert not any(says_when_it_begins(p) for p in (["nowhere.py"], ["-m", "nowhere"], ["-m", "json.nowhere"]))
    assert says_when_it_begins(["-m", "hvdkit.compat", "script.py"])


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        ({"code": 143, "signal": 15, "fresh": True}, False),
        ({"code": 138, "signal": 10, "fresh": True}, False),
        ({"code": 137, "signal": 9, "ordered": 15, "fresh": True}, False),
        ({"code": 143, "signal": 15}, True),
        ({"code": 137, "signal": 9, "fresh": True}, True),
        ({"code": 3, "fresh": True}, True),
        ({"code": 75}, False),
    ],
)
def test_what_is_lost(fields, lost):
    assert Record(0, "host", "host", 1, **fields).lost_nothing is not lost
