"""A program that a fork runs ends, prints and finds what it would in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forkserver import client
from tests.forkserver.servers import HERE, SWITCH, ForkServers

# Says by itself whether it is a fork: nothing in it imports TensorFlow.
ASK = "import sys\nprint('tensorflow' in sys.modules)\n"


@pytest.fixture(scope="module")
def forked(fork_servers):
    variables = fork_servers.variables(servers=1)
    if not variables:
        pytest.skip(f"{SWITCH}=0, or this system has no pidfd_open")
    return variables


def _start(words, variables=None, cwd=None, **how) -> subprocess.Popen:
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(variables or {})}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, *words], env=environ, cwd=cwd, text=True, **{**pipes, **how})


def _ended(words, variables=None, given="", **how) -> tuple[int, str, str]:
    process = _start(words, variables, **how)
    said = process.communicate(given, timeout=60)
    return process.returncode, *said


def _code(text: str) -> list[str]:
    return ["-c", f"{text}\n# a comment with tensorflow in it, for the client's sake", "--an", "ärgument"]


FOUND = """
import json, os, random, signal, sys, threading
by_imports = ("TF", "TPU", "HDF5", "KMP", "ENABLE", "PYTHONPATH")
environ = {k: v for k, v in os.environ.items() if not k.startswith(by_imports)}
main, out = sys.modules["__main__"], sys.stdout
print(json.dumps({
    "argv": [sys.argv, sys.orig_argv, sys.path[0], [p for p in sys.path if "hvdkit-forks" not in p]],
    "main": [__name__, globals().get("__file__"), vars(main) is globals(), str(__loader__)[:40], bool(__builtins__)],
    "place": [os.getcwd(), os.umask(0), sorted(os.sched_getaffinity(0)), environ],
    "streams": [s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)] + [out.line_buffering, out.encoding],
    "signals": [str(signal.getsignal(n)) for n in (2, 10, 13, 15, 17)] + [threading.current_thread().name],
    "read": sys.stdin.read(),
}, sort_keys=True))
sys.stderr.write("and this to standard error\\n")
"""


def test_a_program_finds_what_it_would_find(forked, tmp_path):
    variables = {"MY_OWN": "wört", "TZ": "Asia/Tokyo"}
    for words in (_code(FOUND), ["script.py", "--an", "argument"]):
        (tmp_path / "script.py").write_text(FOUND, encoding="utf-8")
        rank = {} if words[0] == "-c" else {"HOROVOD_RANK": "0"}
        how = {"given": "a line\nand another", "cwd": tmp_path}
        code, plain, error = _ended(words, {**variables, **rank}, **how)
        assert (code, error) == (0, "and this to standard error\n")
        found = _ended(words, {**variables, **rank, **forked}, **how)
        assert (found[0], found[2]) == (code, error)
        assert json.loads(found[1]) == json.loads(plain)


@pytest.mark.parametrize(
    "text",
    [
        "raise SystemExit",
        "sys.exit(3)",
        "sys.exit('with a word')",
        "atexit.register(print, 'at the end'); print('first')",
        "def inner():\n    raise ValueError('wört')\ninner()",
        "import no_such_module",
        "this is no Python",
        "sys.excepthook = lambda kind, value, traceback: print('hooked', kind, value)\n1 / 0",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()",
        "os._exit(9)",
    ],
)
def test_a_program_ends_as_it_would(forked, text):
    words = _code(f"import atexit, os, signal, sys, threading, time\n{text}")
    plain = _ended(words)
    assert plain == _ended(words, forked)
    assert plain[0] or not plain[2]


def test_a_module_and_a_script_that_raise(forked, tmp_path):
    for words, rank in (
        (["-m", "hvdkit", "checkpoint", "export"], {}),
        (["raises.py"], {"OMPI_COMM_WORLD_RANK": "0"}),
        (["is_not_there.py"], {"OMPI_COMM_WORLD_RANK": "0"}),
    ):
        (tmp_path / "raises.py").write_text("def f():\n    raise KeyError(1)\n\n\nf()\n")
        plain = _ended(words, rank, cwd=tmp_path)
        assert plain == _ended(words, {**rank, **forked}, cwd=tmp_path) and plain[0]


def test_it_is_a_fork_and_each_draws_its_own_numbers(forked):
    drawn = "import random, numpy\nprint(random.random(), numpy.random.random())"
    outputs = [_ended(_code(ASK + drawn), forked)[1] for _ in range(2)]
    (first, a), (second, b) = (output.splitlines() for output in outputs)
    assert first == second == "True" and not set(a.split()) & set(b.split())


def test_descriptors_that_were_passed_on(forked):
    reads, writes = os.pipe()
    code, _, said = _ended(_code(f"import os\nos.write({writes}, b'through the pipe')"), forked, pass_fds=[writes])
    os.close(writes)
    with os.fdopen(reads, "rb") as file:
        assert (code, said, file.read()) == (0, "", b"through the pipe")


WAITS = """
import os, signal, sys, time
def end(number, _):
    print("got", number, flush=True)
    sys.exit(number)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, end)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT"])
def test_signals_are_passed_on(forked, name):
    number = getattr(signal, name)
    process = _start(_code(WAITS), forked)
    assert int(process.stdout.readline()) != process.pid
    process.send_signal(number)
    said, error = process.communicate(timeout=30)
    if name == "SIGINT":
        assert process.returncode == -number and error.endswith("KeyboardInterrupt\n")
    else:
        assert (process.returncode, said, error) == (number, f"got {int(number)}\n", "")


def _gone(pid: int) -> bool:
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


def test_a_fork_dies_with_the_process_that_stands_for_it(forked):
    process = _start(_code(WAITS), forked)
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=30)
    assert _gone(pid)


def test_what_it_would_not_find_here_is_run_in_its_own_process(forked, fork_servers, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "keras.py").write_text("")
    path = {"PYTHONPATH": f"{forked['PYTHONPATH']}{os.pathsep}{other}"}
    for variables, why in (
        ({"KERAS_BACKEND": "jax"}, "KERAS_BACKEND is 'jax'"),
        ({"OMP_NUM_THREADS": "1"}, "OMP_NUM_THREADS is '1'"),
        ({"PYTHONHASHSEED": "3"}, "PYTHONHASHSEED is '3'"),
        (path, "other has another keras"),
    ):
        assert _ended(_code(ASK), {**forked, **variables}) == (0, "False\n", "")
        assert why in fork_servers.log
    assert _ended(["-W", "error", *_code(ASK)], forked) == (0, "False\n", ""), "with an option of Python's own"
    assert _ended(["-c", ASK.replace("tensorflow", "ten' + 'sorflow")], forked)[1] == "False\n", "it is of no use to it"


def test_without_a_server_a_program_runs_all_the_same(tmp_path):
    shutil.copy(HERE / "client.py", tmp_path / "sitecustomize.py")
    variables = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    assert _ended(_code(ASK), variables) == (0, "False\n", "")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{tmp_path}/0")
        assert _ended(_code(ASK), variables) == (0, "False\n", "")
        deaf.listen()
        process = _start(_code(ASK), variables)
        deaf.accept()[0].close()  # a server that ends before it answers
        assert process.communicate(timeout=30) == ("False\n", "")


def test_servers_end_with_their_owner_and_forks_with_them(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    with ForkServers() as servers:
        variables = servers.variables(servers=1)
        if not variables:
            pytest.skip("this system has no pidfd_open")
        process = _start(_code(WAITS), variables)
        pid = int(process.stdout.readline())
    assert servers.processes[0].returncode == 0 and _gone(pid)
    assert process.wait(30) == -signal.SIGKILL
    process.communicate()


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    with ForkServers() as servers:
        assert servers.variables() == {} and not servers.processes


@pytest.mark.dist
def test_neither_ranks_nor_runs_all_hash_alike(forked, fork_servers):
    every = fork_servers.variables()
    asked = _code(f"{ASK}\nprint(hash('a name'))")
    said = {}
    for run in ("3f", "40"):
        for rank in range(3):
            variables = {**every, "HOROVOD_RANK": str(rank), "HVDKIT_RUN_ID": run}
            said[run, rank] = _ended(asked, variables)[1]
    assert all(text.startswith("True") for text in said.values())
    assert len(set(said.values())) == 3
    for run in ("3f", "40"):
        assert len({said[run, rank] for rank in range(3)}) == 3, "the ranks of a run"
    for rank in range(3):
        assert said["3f", rank] != said["40", rank], "a rank in two runs"


def test_programs_that_are_no_ranks_take_any_server_that_is_there(tmp_path):
    assert {client.server_of(None, "", pid, str(tmp_path)) for pid in range(9)} == {0}
    for number in range(3):
        (tmp_path / f"{number}.log").touch()
        (tmp_path / str(number)).touch()
    assert {client.server_of(None, "", pid, str(tmp_path)) for pid in range(9)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("words", "rank", "yes"),
    [
        (["-m", "hvdkit.testing", "file.py"], False, True),
        (["-m", "hvdkit", "train", "c.yaml"], True, True),
        (["-m", "hvdkit", "train", "c.yaml"], False, True),
        (["-m", "hvdkit", "run", "-np", "2"], False, False),
        (["-m", "hvdkit.launch.worker", "train.py"], True, False),
        (["-m", "hvdkit.compat", "train.py"], True, True),
        (["-m", "hvdkit.compat", "train.py"], False, False),
        (["-m", "this"], True, False),
        (["/bin/horovodrun", "-np", "2"], False, True),
        (["train.py"], True, True),
        (["train.py"], False, True),
        (["-c", "import keras"], False, True),
        (["-c", "pass"], True, False),
        ([], True, False),
    ],
)
def test_who_profits(words, rank, yes):
    assert client.profits(words, rank) == yes
