"""The parent process of a rank: what it gives the rank, and what it does not take for the launcher's end."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from hvdkit.engines.horovod import HorovodBuild
from hvdkit.launch.launcher import Tool
from hvdkit.launch.plan import Request, SystemInfo, make_plan

pytestmark = pytest.mark.timeout(180)


def _private(cluster, values: dict[str, str]) -> dict[str, str]:
    """The environment of a worker that has a private file with these variables."""
    directory = cluster.directory / "run"
    directory.mkdir()
    (directory / "private.json").write_text(json.dumps(values))
    names = {"HVDKIT_RUN_DIR": str(directory), "HVDKIT_RUN_ID": "test", "HVDKIT_PRIVATE_VARIABLES": ",".join(values)}
    return {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1", **names}


def test_the_private_file_is_read_before_the_rank_says_that_it_has_started(cluster):
    """As soon as all ranks have said so the file goes."""
    environ = _private(cluster, {"MINE": "x"})
    script = cluster.script("print(os.environ['MINE'])")
    text = """
    from pathlib import Path
    from hvdkit.launch import records, worker
    real = records.write
    def write(folder, record):
        Path(folder, "private.json").unlink(missing_ok=True)
        return real(folder, record)
    records.write = write
    sys.exit(worker.main(sys.argv[1:]))
    """
    ended = cluster.finish(cluster.start([sys.executable, cluster.script(text, "soon.py"), script], environ))
    assert (ended.code, ended.out) == (0, "x\n"), ended.err


def test_what_the_user_has_counts_and_not_what_a_remote_shell_sets(cluster):
    environ = _private(cluster, {"DATA_DIR": "/new", "HOROVOD_LOCAL_RANK": "7"})
    remote = {"DATA_DIR": "/old", "HOROVOD_LOCAL_RANK": "0"}  # of a .bashrc, and of the launcher
    script = cluster.script("print(os.environ['DATA_DIR'], os.environ['HOROVOD_LOCAL_RANK'])")
    ended = cluster.finish(cluster.start([sys.executable, "-m", "hvdkit.launch.worker", script], {**environ, **remote}))
    assert (ended.code, ended.out) == (0, "/new 0\n"), ended.err


def test_a_closed_standard_error_is_not_the_launchers_end(cluster):
    script = cluster.script("time.sleep(3)\nopen('ran', 'w')")
    words = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "hvdkit.launch.worker", script]
    ended = cluster.finish(cluster.start(words, {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}))
    assert ended.code == 0
    assert (cluster.directory / "ran").exists()


def test_nohup_is_obeyed(cluster, light):
    script = "os.write(1, b'ready\\n')\ntime.sleep(4)\nos.write(1, b'over\\n')"
    process = cluster.ready(["nohup", *light(script)])
    process.send_signal(signal.SIGHUP)
    ended = cluster.finish(process, 60)
    assert (ended.code, ended.out.count("over")) == (0, 2), ended.err
    assert cluster.gone()


def test_a_variable_with_its_value_after_x_is_no_secret():
    """It stands on the command line of `hvdkit run` already; and all hosts must have it."""
    environ = {"PATH": "/bin", "AWS_TOKEN": "x", "MINE": "y", "ZZ": "z"}
    there = SystemInfo("/python", {"horovodrun": Tool("/horovodrun")}, {"horovod": HorovodBuild(True, False)}, environ)
    plan = make_plan(Request(("train.py",), 2, forward=("DATA_DIR=/data", "ZZ")), there)
    assert plan.private == ("ZZ", "AWS_TOKEN", "MINE"), "those first of which the user said that every rank needs them"
    assert plan.env["DATA_DIR"] == "/data"


def test_a_signal_after_the_workers_end_goes_to_nobody(cluster):
    """While what the rank has left behind is ended, which takes a while, its number may be another process'."""
    text = """
    from hvdkit.launch import subreaper
    sent = []
    kill = os.kill
    os.kill = lambda pid, number: sent.append(pid) or kill(pid, number)
    def end(seconds):
        kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
    subreaper.kill_descendants = end
    code = subreaper.run_in_child(lambda pipe: 3, lambda number: None)
    print(code, sent)
    """
    ended = cluster.finish(cluster.start([sys.executable, cluster.script(text)]))
    assert ended.out == "3 []\n", ended.err
