"""What the machine and its Keras have, and a printed reason to skip where they have not."""

from __future__ import annotations

import functools

import pytest


@functools.cache
def _why_no_mpi() -> str | None:
    from hvdkit.comm.horovod import library_built
    from hvdkit.launch import run

    if not library_built("mpi"):
        return "Horovod was built without MPI: hvdkit install-horovod --with mpi"
    try:
        run(["-c", "pass"], 2, launcher="mpirun", module="this", dry_run=True)
    except Exception as error:
        return str(error)
    return None


def needs_mpi() -> None:
    """Skip where no MPI can start ranks."""
    reason = _why_no_mpi()
    if reason:
        pytest.skip(reason)


def launcher_of(name: str) -> str:
    """``"mpirun"`` skips a test where no MPI can start ranks, ``"horovodrun"`` never."""
    if name == "mpirun":
        needs_mpi()
    return name


def needs_multi_optimizer() -> None:
    """Skip where Keras has no ``MultiOptimizer``, which came with 3.15."""
    import keras

    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip(f"Keras {keras.__version__} has no MultiOptimizer")


# How the tests enter a world: the launcher, and what moves the bytes.
WORLDS = ("gloo", "horovod-mpi", "mpi")


def world(name: str) -> dict:
    """The arguments of ``run_ranks`` for one of ``WORLDS``; skips a test where no MPI can start ranks."""
    if name == "gloo":
        return {"launcher": "horovodrun"}
    return {"launcher": launcher_of("mpirun"), "environ": {"HVDKIT_ENGINE": "mpi" if name == "mpi" else "horovod"}}
