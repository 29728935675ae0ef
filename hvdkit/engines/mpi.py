"""The engine ``mpi``: mpi4py, through shared memory inside a host. It needs neither Horovod nor a compiler."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar

from hvdkit.engines import EngineInfo
from hvdkit.errors import COLLECTIVE_INTERRUPTED, LaunchError

#: What its operations in a graph are called: nothing else tells them from a user's own Python functions.
COLLECTIVE = "hvdkit_collective"


class Mpi(EngineInfo):
    """``hvdkit.comm.mpi``; what is installed of it is mpi4py's version."""

    name = "mpi"
    target = "hvdkit.comm.mpi.engine:MpiEngine"
    library = "mpi4py"
    install = "pip install 'hvdkit[mpi]'"
    ways: ClassVar = {"mpi": "mpi"}
    # Inside a host it always reduces in shared memory first, so "hierarchical" is what it does anyway.
    algorithms = ("hierarchical", "pairwise", "recursive-doubling", "ring")
    graph_name = COLLECTIVE
    peer_lost = ("MPI_ERRORS_ARE_FATAL",)
    peer_lost_error = COLLECTIVE_INTERRUPTED
    alone_fix = "start with the mpirun of the MPI that mpi4py loads, or choose the engine 'horovod'."

    def installed(self) -> str | None:
        if importlib.util.find_spec("mpi4py") is None:
            return None
        try:
            return version("mpi4py")
        except PackageNotFoundError:  # a cluster's own, on PYTHONPATH
            return "of an unknown version"

    def cannot_meet(self) -> LaunchError:
        return LaunchError(
            "The engine 'mpi' needs ranks that an MPI started.",
            fix="launch with mpirun (hvdkit run --launcher mpirun), or choose the engine 'horovod'.",
        )

    def why(self, rendezvous: str) -> str:
        return "mpi4py is installed, and its engine needs no Horovod"
