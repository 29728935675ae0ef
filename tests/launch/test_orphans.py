"""What a rank leaves behind ends with the run, though nothing tells whose it is; what is not of the run lives on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from hvdkit.launch.plan import RUN_ID
from hvdkit.launch.terminate import terminate

pytestmark = [pytest.mark.dist, pytest.mark.timeout(180)]

# A process with an empty environment and a session of its own, whose parent has ended, and that ends for SIGKILL only.
# ``name`` is the file that says that it is there, ``mark`` its last argument.
STRAY = """
import os, sys, time
def stray(name, mark):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            ignores = "import signal, time\\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\\n"
            program = f"{ignores}open({name!r}, 'w').close()\\ntime.sleep(600)"
            os.execve(sys.executable, ["python", "-c", program, mark], {})
        os._exit(0)
    os.wait()
    while not os.path.exists(name):
        time.sleep(0.05)
"""


def strays(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[-1:] == [mark] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def bystander(cluster):
    """Another such process, not of the run."""
    mark = f"bystander-{cluster.mark}"
    program = f"{STRAY}stray({str(cluster.directory / 'bystander')!r}, {mark!r})"
    subprocess.run([sys.executable, "-c", program], check=True)
    yield mark
    for process in strays(mark):
        process.kill()


ENDS = {"waits": "time.sleep(600)", "fails": "time.sleep(1)\nif rank: sys.exit(3)\ntime.sleep(600)"}


@pytest.mark.parametrize("victim", ["hvdkit run", "its child", "the rank's parent", "nobody"])
def test_strays_end_with_the_run_and_bystanders_do_not(cluster, launcher, bystander, victim):
    mark = f"stray-{cluster.mark}"
    text = f"{STRAY}stray(f'stray.{{rank}}', {mark!r})\nos.write(1, b'ready\\n')\n"
    script = cluster.script(text + ENDS["fails" if victim == "nobody" else "waits"])
    process = cluster.ready(cluster.command("-np", 2, script, launcher=launcher))
    assert len(strays(mark)) == 2
    if victim == "hvdkit run":
        process.kill()
    elif victim == "its child":
        children = psutil.Process(process.pid).children()
        [child] = [child for child in children if "hvdkit.launch.watchdog" not in child.cmdline()]
        child.kill()
    elif victim == "the rank's parent":
        workers = [p for p in cluster.processes() if "hvdkit.launch.worker" in p.cmdline()]
        for worker in workers[:2]:
            worker.send_signal(signal.SIGKILL)
    ended = cluster.finish(process, 90)
    until = time.monotonic() + 30
    while strays(mark) and time.monotonic() < until:
        time.sleep(0.1)
    left = strays(mark)
    for stray in left:
        stray.kill()
    assert not left
    assert ended.code in {"nobody": (3,), "hvdkit run": (-9,)}.get(victim, (137,))
    assert cluster.gone(within=30)
    assert len(strays(bystander)) == 1


def test_terminate_remembers_those_whose_parent_ends_meanwhile(cluster, bystander):
    mark, run = f"stray-{cluster.mark}", f"run-{cluster.mark}"
    text = f"{STRAY.replace('os._exit(0)', 'time.sleep(600)').replace('os.wait()', 'pass')}stray('stray', {mark!r})"
    process = cluster.start(
        [sys.executable, "-c", f"{text}\nprint('ready', flush=True)\ntime.sleep(600)"], {RUN_ID: run}
    )
    assert process.stdout.readline() == b"ready\n"
    assert len(strays(mark)) == 1
    assert terminate(run, grace_seconds=1.0) == 0
    cluster.finish(process)
    left = strays(mark)
    for stray in left:
        stray.kill()
    assert not left
    assert len(strays(bystander)) == 1
