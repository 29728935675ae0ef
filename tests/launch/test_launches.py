"""Real launches of ranks that import no TensorFlow: how they end, and that nobody stays."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.dist

# Rank 1 does what its argument says, the others sleep for ten minutes.
SCRIPT = """
print("hello from", rank, flush=True)
if rank != 1:
    time.sleep(600)
time.sleep(0.3)
exec({
    "exit": "sys.exit(3)",
    "raise": "raise ValueError('boom of rank 1')",
    "_exit": "os._exit(7)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "kill worker": "os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)",
    "segfault": "import ctypes; ctypes.string_at(0)",
}[sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("exit", 3, "exit code 3"),
        ("raise", 1, "exit code 1"),
        ("_exit", 7, "exit code 7"),
        ("kill", 137, "killed by SIGKILL"),
        ("kill worker", 137, "killed by SIGKILL"),
        ("segfault", 139, "killed by SIGSEGV"),
    ],
)
def test_the_first_rank_that_fails_is_shown_and_the_others_end(cluster, launcher, how, code, says):
    ended = cluster.run("-np", 3, cluster.script(SCRIPT), how, launcher=launcher)
    assert ended.code == code
    assert re.search(rf"hvdkit: rank 1 of 3 on \S+ failed first: {says}", ended.err)
    if how == "raise":
        assert ended.err.endswith("ValueError: boom of rank 1\n")
    assert sorted(re.findall(r"hello from (\d)", ended.out)) == ["0", "1", "2"]
    assert ended.seconds < 30
    assert cluster.gone()
    assert cluster.tidy()


SLOW_TO_END = """
import atexit
if rank == 1:
    atexit.register(time.sleep, 20)  # as TensorFlow, taking itself down
    raise ValueError("boom of rank 1")
time.sleep(2)
sys.exit("HorovodInternalError: Horovod has been shut down")
"""


def test_a_rank_that_raised_is_blamed_though_those_it_left_were_quicker_to_end(cluster, launcher):
    ended = cluster.run("-np", 2, cluster.script(SLOW_TO_END), launcher=launcher)
    assert ended.code == 1
    assert re.search(r"hvdkit: rank 1 of 2 on \S+ failed first: exit code 1", ended.err)
    assert ended.err.endswith("ValueError: boom of rank 1\n")
    assert cluster.gone()


def started(cluster, launcher, text="print('hello', flush=True)\ntime.sleep(600)"):
    """A run whose two ranks have said hello."""
    process = cluster.start(cluster.command("-np", 2, cluster.script(text), launcher=launcher), bufsize=0)
    for _ in range(2):
        assert b"hello" in process.stdout.readline()
    return process


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_signal_ends_all(cluster, launcher, number, code, name):
    process = started(cluster, launcher)
    process.send_signal(number)
    ended = cluster.finish(process, 60)
    assert ended.code == code
    assert ended.err.strip().splitlines()[-1] == f"hvdkit: ended by {name}; all 2 ranks are gone."
    assert "Traceback" not in ended.err
    assert ended.seconds < 14  # the signal was passed on at once: after 15 seconds all would be ended anyway
    assert cluster.gone()
    assert cluster.tidy()


def test_a_second_ctrl_c_ends_at_once(cluster, launcher):
    process = started(cluster, launcher, "signal.signal(15, signal.SIG_IGN)\nprint('hello')\ntime.sleep(600)")
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    ended = cluster.finish(process, 60)
    assert ended.code == 130
    assert ended.seconds < 4.5
    assert cluster.gone()


def test_the_launcher_is_killed(cluster, launcher):
    process = started(cluster, launcher)
    children = psutil.Process(process.pid).children()
    [child] = [child for child in children if "hvdkit.launch.watchdog" not in child.cmdline()]
    child.kill()
    ended = cluster.finish(process, 60)
    assert ended.code == 137
    assert f"the launcher {launcher} was killed by SIGKILL" in ended.err
    assert ended.seconds < 30
    assert cluster.gone()
    assert cluster.tidy()


def test_hvdkit_run_is_killed(cluster, launcher):
    process = started(cluster, launcher)
    process.kill()
    assert cluster.gone(within=30)
    assert cluster.tidy()
    process.communicate()


def test_arguments_arrive_as_they_are(cluster, launcher):
    odd = ["a b", "it's", '"q"', "$HOME", ";", "|", "&", "ü→", "", "--np", "-np", "3", "*", "\\n", "`id`", "a\nb", "-"]
    script = cluster.script("import json\nopen(f'args.{rank}', 'w').write(json.dumps(sys.argv[1:]))", "a b.py")
    ended = cluster.run("-np", 2, script, *odd, launcher=launcher)
    assert ended.code == 0, ended.err
    for rank in range(2):
        assert json.loads((cluster.directory / f"args.{rank}").read_text()) == odd


def test_a_module_with_arguments_of_its_own(cluster, launcher):
    (cluster.directory / "pkg").mkdir()
    cluster.script("print(__name__, sys.argv[1:])", "pkg/mod.py")
    ended = cluster.run("-np", 2, "-m", "pkg.mod", "-np", 3, "-x", "y", launcher=launcher)
    assert ended.code == 0, ended.err
    lines = sorted(line.strip() for line in ended.out.splitlines())
    assert lines == ["[1] __main__ ['-np', '3', '-x', 'y']", "__main__ ['-np', '3', '-x', 'y']"]


@pytest.mark.parametrize("wanted", [False, True])
def test_what_libraries_write_before_the_first_line(cluster, launcher, wanted):
    noise = "I0000 00:00:1795705145.984814   12276 port.cc:153] oneDNN custom operations are on."
    script = cluster.script(f"print({noise!r}, file=sys.stderr)\nprint('mine', rank, file=sys.stderr)")
    environ = {"TF_CPP_MIN_LOG_LEVEL": "0" if wanted else "2"}
    ended = cluster.run("-np", 2, script, launcher=launcher, env=environ)
    assert ended.code == 0
    lines = sorted(line for line in ended.err.splitlines() if "mine" in line or "oneDNN" in line)
    assert lines == sorted([*([noise, f"[1] {noise}"] if wanted else []), "[1] mine 1", "mine 0"])


def test_much_output_neither_blocks_nor_loses_its_end(cluster, launcher):
    text = """
    sys.stdout.buffer.write(b"not utf-8: \\xff\\xfe" + b"y" * 300_000 + b"\\n")
    sys.stdout.buffer.flush()
    open(f"written.{rank}", "w").close()
    if rank:
        while not os.path.exists("written.0"):  # rank 0 is ended by this rank's failure, so not before it has written
            time.sleep(0.02)
        for number in range(100_000):
            sys.stderr.write(f"{number} " + "x" * 100 + "\\n")
        raise ValueError("boom of rank 1")
    time.sleep(600)
    """
    ended = cluster.run("-np", 2, cluster.script(text), launcher=launcher)
    assert ended.code == 1
    passed_on = [line for line in ended.err.splitlines() if line.startswith("[1] ") and line.endswith("x" * 100)]
    assert len(passed_on) == 100_000
    assert ended.err.endswith("ValueError: boom of rank 1\n")
    assert ended.out.count("y") == 600_000


def test_a_closed_standard_input(cluster, launcher):
    script = cluster.script("print('hello')")
    ended = cluster.run("-np", 2, script, launcher=launcher, stdin=None, preexec_fn=lambda: os.close(0))
    assert ended.code == 0, ended.err
    assert ended.out.count("hello") == 2


@pytest.mark.usefixtures("mpirun_words")  # skips where no mpirun can be used
@pytest.mark.parametrize("victim", ["mpirun", "hvdkit run"])
def test_a_killed_mpirun_leaves_no_session_behind(cluster, victim):
    """Another mpirun with its process id would not start."""
    words = cluster.command("-np", 2, cluster.script("print('ready', flush=True)\ntime.sleep(600)"), launcher="mpirun")
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        process = cluster.ready(words, {"TMPDIR": short, "PRTE_MCA_prte_tmpdir_base": short})
        (session,) = Path(short).glob("ompi.*")
        mpirun = psutil.Process(int(session.suffix[1:]))
        mpirun.suspend()  # so that it cannot clean up
        (mpirun if victim == "mpirun" else process).kill()
        cluster.finish(process)
        assert cluster.gone(within=30)
        until = time.monotonic() + 10
        while list(Path(short).iterdir()) and time.monotonic() < until:
            time.sleep(0.1)
        assert not list(Path(short).iterdir())
