"""mpi4py: its beginning, and its end, where MPI would wait for ranks that never come."""

from __future__ import annotations

import atexit
import sys
from typing import Any

from hvdkit.engines import info
from hvdkit.errors import LaunchError
from hvdkit.launch.identity import launch_info
from hvdkit.utils import uncaught
from hvdkit.utils.training_start import rank_leaves

_ends_watched = False


def load_mpi() -> Any:
    """The MPI module of mpi4py, initialized, for several threads.

    Raises:
        LaunchError: it is not installed, does not load, or its MPI does not know this job's ranks.
    """
    launched = launch_info()
    already = sys.modules.get("mpi4py.MPI")
    try:
        import mpi4py

        if already is None:
            mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LaunchError(
            f"engine='mpi' needs mpi4py, which does not load: {error}.",
            fix="pip install mpi4py (with the mpirun of its MPI), or hvd.init(engine='horovod').",
            rank=launched.rank,
        ) from error
    if MPI.COMM_WORLD.size != launched.size:
        raise LaunchError(
            f"{launched.launcher} started {launched.size} ranks, but mpi4py came up with a world of "
            f"{MPI.COMM_WORLD.size}.",
            fix=info("mpi").alone_fix,
            rank=launched.rank,
        )
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise LaunchError(
            "This MPI may be called from one thread only, and TensorFlow has several.", fix="engine='horovod'."
        )
    if not _ends_watched:
        _finalize_at_exit(MPI, finalizes=already is None)
    return MPI


def _finalize_at_exit(mpi: Any, *, finalizes: bool) -> None:
    """Finalize MPI when the program ends well, and not after an exception.

    MPI_Finalize returns when every rank has called it: a rank that failed would wait there for one that sleeps. Without
    it, the launcher sees a rank that ended badly, and ends the others.

    Args:
        mpi: mpi4py's MPI.
        finalizes: whether MPI is finalized here; if a program imported mpi4py first, mpi4py does it.
    """
    global _ends_watched
    _ends_watched = True
    uncaught.watch()

    def end() -> None:
        if uncaught.has_come() and not finalizes:
            sys.stderr.flush()
            mpi.COMM_WORLD.Abort(1)
        if uncaught.has_come():
            return
        rank_leaves()
        if finalizes and not mpi.Is_finalized():
            mpi.Finalize()

    atexit.register(end)
