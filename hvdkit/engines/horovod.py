"""The engine ``horovod``: Horovod over Gloo, MPI or NCCL, built by ``hvdkit install-horovod``."""

from __future__ import annotations

import sys
from typing import ClassVar, NamedTuple

from hvdkit.engines import EngineInfo
from hvdkit.errors import HorovodMissingError, HvdkitError, LaunchError
from hvdkit.horovod_build import stamp

_INSTALL = "hvdkit install-horovod"


class HorovodBuild(NamedTuple):
    """Which controllers the installed Horovod was built with."""

    gloo: bool
    mpi: bool


class Horovod(EngineInfo):
    """``hvdkit.comm.horovod``; what is installed of it is a ``HorovodBuild``, or the reason why it is of no use."""

    name = "horovod"
    target = "hvdkit.comm.horovod:HorovodEngine"
    library = "Horovod"
    install = _INSTALL
    ways: ClassVar = {"gloo": "gloo", "mpi": "horovod-mpi"}
    algorithms = ("hierarchical", "ring", "tree")
    graph_operation = "Horovod"
    # The last three are Gloo's, as it words them: a lock, a database or an HTTP library says much the same of its own.
    peer_lost = (
        r"Horovod has been shut down",
        r"Connection closed by peer \[",
        r"(?:Read error|writev) \[\S+ Connection reset by peer",
        r"Timed out waiting \d+ms for (?:recv|send) operation",
    )
    peer_lost_error = "HorovodInternalError"
    alone_fix = (
        "Horovod has to speak the launcher's own MPI: `hvdkit install-horovod --with mpi` with that MPI first on PATH, "
        "and under Slurm `srun --mpi=pmix`; or launch with horovodrun. `hvdkit doctor` says what does not fit."
    )

    def installed(self) -> HorovodBuild | str | None:
        # By the path, since a running hvdkit.compat answers imports of horovod itself.
        built = stamp.controllers(sys.path)
        return stamp.compatibility_problem(sys.path) or (HorovodBuild(*built) if built else None)

    def problem(self, rendezvous: str, installed: HorovodBuild | str | None) -> HvdkitError | None:
        if not isinstance(installed, HorovodBuild):
            with_ = " --with mpi" if rendezvous == "mpi" and installed is None else ""
            what = installed or "Horovod is not installed in this Python."
            return HorovodMissingError(what, fix=f"{_INSTALL}{with_}")
        if rendezvous not in self.ways:
            return self.cannot_meet()
        if not getattr(installed, rendezvous):
            called = {"gloo": "Gloo", "mpi": "MPI"}[rendezvous]
            return LaunchError(f"This Horovod was built without {called}.", fix=f"{_INSTALL} --with {rendezvous}")
        return None

    def why(self, rendezvous: str) -> str:
        return "Horovod was built with " + {"gloo": "Gloo, which needs no MPI", "mpi": "MPI"}[rendezvous]
