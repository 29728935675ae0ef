"""Preemption: `hvdkit run` gets a signal, and the ranks save before anybody ends them.

Most of it with a light launcher that cleans up as horovodrun and mpirun do, the main cases with these two as well.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

pytestmark = pytest.mark.timeout(180)  # what is tested here hangs when it is broken

TERM, USR1, INT, HUP = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP

# Saves for three seconds when it is asked to, whatever else comes, and leaves for good.
SAVES = """
asked = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: asked.append(number))
os.write(1, b"ready\\n")
until = time.monotonic() + 120
while not asked and time.monotonic() < until:
    time.sleep(0.02)
until = time.monotonic() + 3
while time.monotonic() < until:
    time.sleep(0.02)
open(f"saved.{rank}", "w").write(" ".join(map(str, asked)))
sys.exit(75)
"""
IGNORES = """
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
os.write(1, b"ready\\n")
time.sleep(120)
"""
DIES = "os.write(1, b'ready\\n')\ntime.sleep(120)"


def saved(cluster) -> list[str]:
    """The ranks that saved, each with the signals it was sent."""
    return [f"{path.name} {path.read_text()}" for path in sorted(cluster.directory.glob("saved.*"))]


def once(numbers) -> str:
    """Each kind of signal once, as a rank should get them."""
    return " ".join(str(int(number)) for number in dict.fromkeys(numbers))


@pytest.mark.parametrize("numbers", [(TERM,), (TERM, TERM, TERM), (USR1,), (USR1, TERM)])
def test_ranks_save_before_the_launcher_is_told(cluster, light, numbers):
    ended = cluster.signalled(light(SAVES, 3), numbers)
    assert ended.code == 75
    name = signal.Signals(numbers[0]).name
    assert ended.err == f"hvdkit: ended by {name}: the ranks saved and should be started again (exit code 75).\n"
    assert saved(cluster) == [f"saved.{rank} {once(numbers)}" for rank in range(2)]
    assert cluster.gone()
    assert cluster.tidy()


@pytest.mark.dist
@pytest.mark.parametrize("numbers", [(TERM,), (USR1, TERM, TERM)])
def test_ranks_save_before_horovodrun_and_mpirun_are_told(cluster, launcher, numbers):
    words = cluster.command("-np", 2, "--max-restarts", 3, cluster.script(SAVES), launcher=launcher)
    ended = cluster.signalled(words, numbers)
    assert ended.code == 75
    assert ended.err.endswith("the ranks saved and should be started again (exit code 75).\n")
    assert "restart 1 of" not in ended.err
    assert saved(cluster) == [f"saved.{rank} {once(numbers)}" for rank in range(2)]
    assert cluster.gone()
    assert cluster.tidy()


@pytest.mark.dist
def test_a_signal_to_one_rank_alone(cluster, launcher):
    text = """
    open(f"pid.{rank}", "w").write(str(os.getpid()))
    signal.signal(signal.SIGTERM, lambda number, _: open("asked", "w").close())
    os.write(1, b"ready\\n")
    while not os.path.exists("asked"):
        time.sleep(0.02)
    time.sleep(1)
    sys.exit(75)
    """
    process = cluster.ready(cluster.command("-np", 2, cluster.script(text), launcher=launcher))
    os.kill(int((cluster.directory / "pid.1").read_text()), signal.SIGTERM)
    ended = cluster.finish(process, 60)
    assert ended.code == 75
    assert ended.err.endswith("hvdkit: the ranks saved and should be started again (exit code 75).\n")


PATIENCE = {"HVDKIT_PREEMPT_SECONDS": "3", "HVDKIT_GRACE_SECONDS": "1"}


@pytest.mark.parametrize("numbers", [(TERM, TERM), (USR1, USR1)])
def test_ranks_that_ignore_the_signal_are_ended_after_a_while(cluster, light, numbers):
    began = time.monotonic()
    ended = cluster.signalled(light(IGNORES, 3), numbers, PATIENCE)
    seconds = time.monotonic() - began
    assert ended.code == 128 + numbers[0]
    assert ended.err.endswith(f"hvdkit: ended by {signal.Signals(numbers[0]).name}; all 2 ranks are gone.\n")
    assert 3 < seconds < 20
    assert cluster.gone()
    assert cluster.tidy()


@pytest.mark.parametrize("number", [TERM, USR1])
def test_ranks_without_a_handler_die_at_once(cluster, light, number):
    ended = cluster.signalled(light(DIES, 3), [number])
    assert ended.code == 128 + number
    assert ended.err == f"hvdkit: ended by {signal.Signals(number).name}; all 2 ranks are gone.\n"
    assert ended.seconds < 15
    assert cluster.gone()


@pytest.mark.parametrize("number", [INT, HUP])
def test_an_end_by_hand_is_no_restart_even_where_the_ranks_saved(cluster, light, number):
    script = SAVES.replace("+ 3", "+ 0.2")
    ended = cluster.signalled(light(script, 3), [number])
    assert ended.code == 128 + number
    assert "restart" not in ended.err
    assert cluster.gone()


@pytest.mark.dist
def test_ctrl_c_is_no_restart_of_hvdkit_run(cluster, launcher):
    words = cluster.command("-np", 2, "--max-restarts", 3, cluster.script(DIES), launcher=launcher)
    ended = cluster.signalled(words, [INT])
    assert ended.code == 130
    assert "restart 1 of" not in ended.err
    assert cluster.gone()


def test_ctrl_c_ends_the_saving_in_order_and_a_second_one_at_once(cluster, light):
    ended = cluster.signalled(light(IGNORES, obeys=False), [TERM, INT, INT])
    assert ended.code == 143
    assert ended.seconds < 8  # the grace is 15 seconds
    assert cluster.gone()


def test_ctrl_c_ends_the_saving_within_the_grace(cluster, light):
    ended = cluster.signalled(light(IGNORES), [TERM, INT])
    assert ended.code == 143
    assert ended.seconds < 10
    assert cluster.gone()


@pytest.mark.parametrize(
    ("rank_code", "number", "code"), [(75, TERM, 75), (75, USR1, 75), (75, INT, 130), (3, TERM, 143), (3, INT, 130)]
)
def test_a_signal_ends_the_pause(cluster, light, rank_code, number, code):
    process = cluster.start(light(f"os.write(1, b'ready\\n')\nsys.exit({rank_code})", 20), bufsize=0)
    while b"restart 3 of 20 in 4 s" not in process.stderr.readline():
        pass
    process.send_signal(number)
    ended = cluster.finish(process, 30)
    assert ended.code == code
    assert ended.seconds < 3
    assert "before the restart; all 2 ranks are gone" in ended.err
    assert cluster.gone()


FAR = ("env", "HVDKIT_RUN_DIR=/nonexistent")  # as on a host that does not share the run directory


def test_where_no_rank_is_on_this_host_the_launcher_is_told(cluster, light):
    ended = cluster.signalled(light(SAVES.replace("+ 3", "+ 0.2"), before=FAR), [TERM])
    assert ended.code == 75
    assert ended.seconds < 15


def test_where_no_rank_is_on_this_host_a_launcher_that_can_passes_sigusr1_on(cluster, light):
    ended = cluster.signalled(light(SAVES, can="passes on SIGUSR1", before=FAR), [USR1])
    assert ended.code == 75
    assert saved(cluster) == [f"saved.{rank} {once([USR1])}" for rank in range(2)]
