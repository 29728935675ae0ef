"""What the machine and its Keras have, and a printed reason to skip where they have not."""

from __future__ import annotations

import functools

import pytest

from hvdkit.errors import HvdkitError
from hvdkit.launch import discovery
from hvdkit.launch.plan import Request, make_plan


@functools.cache
def why_not(launcher: str, engine: str = "auto") -> str | None:
    """Why ranks cannot be started here by a launcher, with an engine; None where they can."""
    request = Request(("train.py",), 2, launcher, engine)
    try:
        make_plan(request, discovery.detect(request))
    except HvdkitError as error:
        return f"{launcher}, engine {engine}: {error.what}"
    return None


def needs(launcher: str, engine: str = "auto") -> None:
    """Skip where a launcher cannot start ranks, or none that the engine could use."""
    reason = why_not(launcher, engine)
    if reason:
        pytest.skip(reason)


def launcher_of(name: str, engine: str = "auto") -> str:
    """The launcher's name; skips a test where it cannot start ranks that the engine could use."""
    needs(name, engine)
    return name


def needs_multi_optimizer() -> None:
    """Skip where Keras has no ``MultiOptimizer``, which came with 3.15."""
    import keras

    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip(f"Keras {keras.__version__} has no MultiOptimizer")


# How the tests enter a world: the launcher, and what moves the bytes.
_WORLDS = {"gloo": ("horovodrun", "horovod"), "horovod-mpi": ("mpirun", "horovod"), "mpi": ("mpirun", "mpi")}
WORLDS = tuple(_WORLDS)


def world(name: str) -> dict:
    """The arguments of ``run_ranks`` for one of ``WORLDS``; skips a test where it cannot be entered."""
    launcher, engine = _WORLDS[name]
    return {"launcher": launcher_of(launcher, engine), "environ": {"HVDKIT_ENGINE": engine}}
