"""Which engine ``auto`` takes in a rank: by the launcher, by what is installed, and by what each engine has to say."""

from __future__ import annotations

import pytest

from hvdkit import engines
from hvdkit.comm.engines import choose_engine
from hvdkit.comm.horovod import HorovodEngine
from hvdkit.comm.mpi.engine import MpiEngine
from hvdkit.engines.horovod import HorovodBuild
from hvdkit.errors import HorovodMissingError, LaunchError, UsageError
from hvdkit.launch.identity import LaunchInfo

BOTH, GLOO, NONE = HorovodBuild(True, True), HorovodBuild(True, False), None
GPUS, ALONE = "there are GPUs", LaunchError("mpi4py came up alone.")


def chosen(monkeypatch, launcher, horovod, *, mpi4py="4.1.2", mpi_says=None, wanted="auto"):
    def why_not():
        if isinstance(mpi_says, Exception):
            raise mpi_says
        return mpi_says

    monkeypatch.setattr(engines, "installed", lambda: {"mpi": mpi4py, "horovod": horovod})
    monkeypatch.setattr(MpiEngine, "why_not", staticmethod(why_not))
    monkeypatch.setattr(HorovodEngine, "why_not", staticmethod(lambda: None))
    return choose_engine(wanted, LaunchInfo(launcher, rank=1, size=2))


@pytest.mark.parametrize(
    ("launcher", "horovod", "mpi_says", "choice"),
    [
        ("horovodrun", BOTH, None, ("horovod", "horovodrun started the ranks")),
        ("mpirun", BOTH, None, ("mpi", "mpirun started the ranks")),
        ("srun", BOTH, None, ("mpi", "srun started the ranks")),
        ("mpirun", NONE, None, ("mpi", "mpirun started the ranks")),
        ("mpirun", GLOO, None, ("mpi", "mpirun started the ranks")),
        ("mpirun", BOTH, GPUS, ("horovod", "mpirun started the ranks; not mpi: there are GPUs")),
        ("mpirun", BOTH, ALONE, ("horovod", "mpirun started the ranks; not mpi: mpi4py came up alone")),
        ("mpirun", NONE, GPUS, ("mpi", "there are GPUs, but no other engine can be used here")),
        ("mpirun", GLOO, GPUS, ("mpi", "there are GPUs, but no other engine can be used here")),
    ],
)
def test_auto(monkeypatch, launcher, horovod, mpi_says, choice):
    assert chosen(monkeypatch, launcher, horovod, mpi_says=mpi_says) == choice


def test_what_cannot_be(monkeypatch):
    with pytest.raises(HorovodMissingError, match=r"\[rank 1\] Horovod is not installed"):
        chosen(monkeypatch, "horovodrun", NONE)
    with pytest.raises(LaunchError, match=r"\[rank 1\] mpi4py is not(.|\n)*hvdkit\[mpi\]'\, or hvdkit install-horovod"):
        chosen(monkeypatch, "mpirun", NONE, mpi4py=None)
    with pytest.raises(LaunchError, match="mpi4py came up alone"):
        chosen(monkeypatch, "mpirun", NONE, mpi_says=ALONE)
    with pytest.raises(UsageError, match="did you mean 'mpi'"):
        chosen(monkeypatch, "mpirun", BOTH, wanted="mpy")


def test_what_is_asked_for(monkeypatch):
    assert chosen(monkeypatch, "mpirun", BOTH, wanted="horovod") == ("horovod", "it was asked for")
