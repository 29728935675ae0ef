"""The doctor's subprocess: what it says where it hangs, crashes or does not start, and what the checks make of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvdkit.doctor import Context
from hvdkit.doctor.probe import Probe
from hvdkit.horovod_build import framework, stamp
from hvdkit.launch.launcher import Tool
from hvdkit.utils.registry import import_object


def test_a_hanging_probe_is_ended_and_says_where(monkeypatch):
    monkeypatch.setattr("hvdkit.doctor.probe._SCRIPT", """\
import time
print('hvdkit:{"tensorflow": {"version": "2.21.0"}}', flush=True)
print('hvdkit:{"begin": "gpus"}', flush=True)
time.sleep(60)
""")  # fmt: skip
    probe = Probe.run(seconds=2)
    assert probe.error("tensorflow") is None
    assert "hung" in probe.error("gpus")
    assert probe.error("horovod") == "it was not reached: it hung: no answer within 2 s"
    assert probe.reached("gpus") and not probe.reached("horovod")


def test_a_crashing_probe_says_how_it_ended(monkeypatch):
    monkeypatch.setattr("hvdkit.doctor.probe._SCRIPT", """\
import os, signal
print('hvdkit:{"begin": "horovod"}', flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
""")  # fmt: skip
    assert "signal 11" in Probe.run(seconds=30).error("horovod")


def test_ranks_that_do_not_start_are_no_fault_of_mpi4py(monkeypatch):
    context = Context()
    context.tools = {"mpirun": Tool("/env/mpirun", "openmpi", "5.0.7")}
    context.installed = {"mpi": "4.1.2", "horovod": None}
    monkeypatch.setenv("HVDKIT_GRACE_SECONDS", "abc")
    (found,) = import_object("hvdkit.doctor.ranks:mpi4py")(context)
    assert found.detail.startswith("4.1.2; two ranks could not be started to try it: the process ended with code 1: ")
    assert "HVDKIT_GRACE_SECONDS should be a number" in found.detail
    assert (
        found.fix == "see it fail: python -m hvdkit run -np 2 --launcher mpirun --engine mpi -m hvdkit.doctor.two_ranks"
    )


@pytest.mark.parametrize(("check", "reached"), [("software:tensorflow", ()), ("ranks:horovod", ("tensorflow", "gpus"))])
def test_what_was_not_tried_is_not_said_to_be_broken(monkeypatch, check, reached):
    """The process does not start, or hangs at the GPUs, before Horovod's turn."""
    there = framework.TensorFlow("tensorflow", "2.21.0", cuda=None)
    monkeypatch.setattr(framework, "installed_tensorflow", lambda: there)
    monkeypatch.setattr(stamp, "installed_horovod", lambda: stamp.Stamp("0.28.1", Path("/nowhere"), "2.21.0", "0123"))
    monkeypatch.setattr(stamp, "compatibility_problem", lambda: None)
    answers = {"tensorflow": {"version": "2.21.0"}, "gpus": {"error": "it hung"}}
    context = Context()
    context.probe = Probe({name: answers[name] for name in reached}, "it hung")
    found, *_ = import_object(f"hvdkit.doctor.{check}")(context)
    assert "could not be" in found.detail and "it hung" in found.detail
    assert "does not load" not in found.detail
    assert "install" not in found.fix
