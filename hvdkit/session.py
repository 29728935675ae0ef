"""``hvd.init()`` and ``hvd.shutdown()``: enter the world, pin the GPU, keep watch over ``fit``."""

from __future__ import annotations

from typing import Any

from hvdkit import env
from hvdkit.beginning import training_begins
from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.numbers import real


def init(
    comm: Any = None,
    process_sets: Any = None,
    *,
    pin_gpus: bool = True,
    memory_growth: bool = True,
    proof: bool | None = None,
    deadline: float | None = None,
    engine: str | None = None,
) -> None:
    """Enter the world that ``horovodrun``, ``mpirun`` or ``hvdkit run`` started; a second call does nothing.

    Started by none of them, the process is a world of one: rank 0 of size 1, and Horovod is not needed.

    Args:
        comm: be a world of these ranks only: a list of ranks, or an ``mpi4py`` communicator. None means all.
        process_sets: a list of ``hvd.ProcessSet`` to bring to life, the same on every rank; ``"dynamic"`` lets
            ``hvd.add_process_set`` make them later (each cycle of Horovod then costs a little more).
        pin_gpus: let this rank see one GPU only, the one with its ``local_rank``.
        memory_growth: take GPU memory as it is needed instead of all at once.
        proof: check in every ``fit`` that the ranks really communicate and stay equal (see
            ``hvd.callbacks.CommunicationProof``). None means True, or what ``HVDKIT_PROOF`` says.
        deadline: seconds a rank waits for the others in one collective before the job ends with a message that names
            who is missing. None means 600, or what ``HVDKIT_DEADLINE`` says; 0 waits for ever.
        engine: what moves the bytes: ``"horovod"`` (over Gloo, MPI or NCCL), ``"mpi"`` (mpi4py on host memory, much
            faster on CPUs), or ``"auto"``: ``mpi`` where an MPI started the ranks and they have no GPU. None means
            ``"auto"``, or what ``HVDKIT_ENGINE`` says; the same on every rank.

    Raises:
        HorovodMissingError: launched on several ranks that need Horovod, but there is none that loads.
        LaunchError: the world that came up is not the one that was launched, or there are more ranks than GPUs.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.rank(), hvd.size()
    (0, 1)
    """
    if world.is_initialized():
        return
    proof = env.flag("PROOF", True) if proof is None else proof
    deadline = env.number("DEADLINE", 600.0) if deadline is None else deadline
    deadline = real(deadline, "deadline")
    if deadline < 0:
        raise UsageError(f"`deadline` must be 0 or more seconds. Received: deadline={deadline}.")
    if memory_growth:  # TensorFlow reads it when it starts its GPUs
        env.set_default("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    entered = world.connect(deadline, comm, process_sets, engine or env.text("ENGINE", "auto"))
    if entered.size == 1:
        training_begins()  # nobody watches over what trains in a world of one
    else:
        _check_backend()
        from hvdkit import guard
        from hvdkit.comm import devices

        if pin_gpus:
            devices.pin(entered.local_rank, entered.local_size)
        guard.install(proof=proof)


def shutdown() -> None:
    """Leave the world and stop watching over ``fit``; ``init`` may enter one again."""
    if world.is_initialized() and world.size() > 1:
        from hvdkit import guard

        guard.remove()
    world.leave()


def _check_backend() -> None:
    backend = env.get("KERAS_BACKEND")  # before Keras is imported: the other backend may not be installed
    if not backend:
        import keras

        backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UsageError(
            f"hvdkit trains Keras on TensorFlow, but the Keras backend is {backend!r}.",
            fix="set KERAS_BACKEND=tensorflow before importing keras.",
        )
