"""Ranks that run another script or another version are refused when they enter the world."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hvdkit.testing import run_ranks
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]


def other_program(folder: str) -> list[str]:
    """Rank 1 has another hvdkit, then another script."""
    import hvdkit as hvd
    from hvdkit import session
    from hvdkit.launch.identity import launch_info

    said, rank = [], launch_info().rank
    script = Path(folder, f"train{rank}.py")
    script.write_text("of rank 1" if rank else "", encoding="utf-8")
    for of_one, name, value in (
        (session, "__version__", "9.9"),
        (sys.modules["__main__"], "__file__", str(script)),
    ):
        before = getattr(of_one, name, None)
        if rank or name == "__file__":
            setattr(of_one, name, value)
        try:
            hvd.init()
        except hvd.errors.CommunicationError as error:
            said.append(str(error))
        setattr(of_one, name, before)
        hvd.shutdown()
    sys.modules["__main__"].__file__ = str(script)
    if rank:
        script.unlink()
    hvd.init()  # one that cannot be read any more is no difference
    return said


@pytest.mark.parametrize("engine", ["gloo", "mpi"])
def test_ranks_with_another_program_are_refused(engine, tmp_path):
    for said in run_ranks(2, other_program, str(tmp_path), init=False, **world(engine)).values:
        assert len(said) == 2
        assert "The ranks do not agree on their program: rank 0: hvdkit 0." in said[0]
        assert "rank 1: hvdkit 9.9" in said[0]
        assert "rank 0: script " in said[1] and "rank 1: script " in said[1]
        assert "What to do: start one script on all hosts" in said[1]
