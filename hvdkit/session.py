"""``hvd.init()`` and ``hvd.shutdown()``: enter the world, pin the GPU, keep watch over ``fit``."""

from __future__ import annotations

import functools
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.horovod_build import framework
from hvdkit.launch.identity import launch_info
from hvdkit.utils import env, tested_versions
from hvdkit.utils.deprecation import renamed_arguments, warn_deprecated
from hvdkit.utils.log import get_logger
from hvdkit.utils.numbers import real
from hvdkit.utils.training_start import training_begins


@renamed_arguments(proof="consistency_check")
def init(
    comm: Any = None,
    process_sets: Any = None,
    *,
    pin_gpus: bool = True,
    memory_growth: bool = True,
    consistency_check: bool | None = None,
    deadline: float | None = None,
    engine: str | None = None,
    algorithm: str | None = None,
) -> None:
    """Enter the world that ``horovodrun``, ``mpirun`` or ``hvdkit run`` started; a second call does nothing.

    Without a launcher, the process is a single process: rank 0 of size 1. It does not need Horovod.

    Args:
        comm: be a world of these ranks only: a list of ranks, or an ``mpi4py`` communicator. None means all.
        process_sets: a list of ``hvd.ProcessSet`` to register, the same on every rank; ``"dynamic"`` lets
            ``hvd.add_process_set`` make them later (each cycle of Horovod then costs a little more).
        pin_gpus: let this rank see one GPU only, the one with its ``local_rank``.
        memory_growth: take GPU memory as it is needed instead of all at once.
        consistency_check: check in every ``fit`` that the ranks really communicate and stay equal (see
            ``hvd.callbacks.ConsistencyCheck``). None means True, or what ``HVDKIT_CONSISTENCY_CHECK`` says.
        deadline: seconds a rank waits for the others in one collective before the job ends with a message that names
            who is missing. None means 600, or what ``HVDKIT_DEADLINE`` says; 0 waits for ever.
        engine: what moves the bytes: ``"horovod"`` (over Gloo, MPI or NCCL), ``"mpi"`` (mpi4py on host memory, much
            faster on CPUs), or ``"auto"``: ``mpi`` where an MPI started the ranks and they have no GPU. None means
            ``"auto"``, or what ``HVDKIT_ENGINE`` says; the same on every rank.
        algorithm: how an all-reduce is done: ``"ring"``, ``"hierarchical"``, and with ``mpi`` also ``"pairwise"`` and
            ``"recursive-doubling"`` (between hosts), with Horovod over NCCL also ``"tree"``. None means ``"auto"``,
            which chooses by size, or what ``HVDKIT_ALGORITHM`` says; the same on every rank.

    Raises:
        HorovodMissingError: several ranks were launched that need Horovod, but no Horovod can be loaded.
        UsageError: the engine has no such algorithm.
        LaunchError: the number of ranks differs from the number that was launched, or there are more ranks than GPUs.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.rank(), hvd.size()
    (0, 1)
    """
    if world.is_initialized():
        return
    if consistency_check is None:
        consistency_check = _wants_consistency_check()
    deadline = env.number("DEADLINE", 600.0) if deadline is None else deadline
    deadline = real(deadline, "deadline")
    if deadline < 0:
        raise UsageError(f"`deadline` must be 0 or more seconds. Received: deadline={deadline}.")
    if memory_growth:  # TensorFlow reads it when it starts its GPUs
        env.set_default("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    _warn_of_untested_versions()
    names = engine or env.text("ENGINE", "auto"), algorithm or env.text("ALGORITHM", "auto")
    entered = world.connect(deadline, comm, process_sets, *names)
    several = entered.size > 1
    if not several:
        training_begins()  # nobody watches over what trains in a world of one
    if _keras_is_ours(required=several):
        from hvdkit.strategies import devices
        from hvdkit.trainer import patches

        if several and pin_gpus:
            devices.pin(entered.local_rank, entered.local_size)
        patches.install_patches(several=several, consistency_check=consistency_check)


def _wants_consistency_check() -> bool:
    """What the variable says, or else the one whose name it had before."""
    old, new = "PROOF", "CONSISTENCY_CHECK"
    if env.text(old, ""):
        # Of whoever called init, whose decorator is a frame of its own.
        warn_deprecated(f"{env.PREFIX}{old}", f"{env.PREFIX}{new}", stacklevel=5)
    return env.flag(new if env.text(new, "") else old, True)


def shutdown() -> None:
    """Leave the world, and remove the wrappers that ``init`` put around Keras; ``init`` may be called again."""
    if "hvdkit.trainer.patches" in sys.modules:
        from hvdkit.trainer import patches

        patches.remove_patches()
    world.leave()


@functools.cache
def _warn_of_untested_versions() -> None:
    """Say once, on rank 0, that this Keras or TensorFlow was not tested: what it changed shows in a step only."""
    if launch_info().rank == 0:
        for text in tested_versions.warnings(_installed()):
            get_logger().warning("%s", text)


def _installed() -> dict[str, str]:
    """The versions of Keras and TensorFlow, from their metadata."""
    tensorflow = framework.installed_tensorflow()
    found = {} if tensorflow is None else {"TensorFlow": tensorflow.version}
    try:
        return {"Keras": version("keras"), **found}
    except PackageNotFoundError:
        return found


def _keras_is_ours(*, required: bool) -> bool:
    """Whether Keras runs on TensorFlow.

    Raises:
        UsageError: it does not, and that is required.
    """
    backend = env.get("KERAS_BACKEND")  # before Keras is imported: the other backend may not be installed
    if not backend:
        import keras

        backend = keras.backend.backend()
    if backend != "tensorflow" and required:
        raise UsageError(
            f"hvdkit trains Keras on TensorFlow, but the Keras backend is {backend!r}.",
            fix="set KERAS_BACKEND=tensorflow before importing keras.",
        )
    return backend == "tensorflow"
