"""``hvd.load_model``: a saved model whose optimizer is distributed again."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import h5py
import keras

from hvdkit.comm.compression import Compression
from hvdkit.errors import UsageError
from hvdkit.keras_internals.optimizers import unwrap
from hvdkit.optim.distributed import DistributedOptimizer, is_distributed
from hvdkit.optim.legacy_h5 import restore_optimizer
from hvdkit.utils.log import get_logger
from hvdkit.utils.serializable import serializable_classes


def load_model(
    filepath: Any,
    custom_optimizers: list[type] | None = None,
    custom_objects: dict[str, Any] | None = None,
    compression: Any = Compression.none,
    legacy_opts: bool = False,
    **kwargs: Any,
) -> keras.Model:
    """Load a model with ``keras.saving.load_model``, and make its optimizer distributed with its slots and iterations.

    Each rank that calls it reads the file. If only rank 0 should read it, build and compile the model on the other
    ranks and broadcast the weights (``hvd.callbacks.BroadcastGlobalVariablesCallback(0)``).

    Args:
        filepath: a ``.keras`` or ``.h5`` file.
        custom_optimizers: your own optimizer classes, which are found by their names.
        custom_objects: names with your own classes or functions, as in Keras. For an optimizer this may also be a
            function that takes the optimizer's configuration as keywords and returns the optimizer, distributed or not.
        compression: as for ``hvd.DistributedOptimizer``.
        legacy_opts: Horovod's switch for optimizers of Keras 2; must be False.
        kwargs: further arguments of ``hvd.DistributedOptimizer`` (``op``, ``process_set``, ...), which no file holds;
            the others are passed to Keras: ``compile``, ``safe_mode``. A model that was trained with
            ``backward_passes_per_step=k`` is saved as one that accumulates k steps: say it again, and the gradients are
            summed as before; leave it out, and their mean is used, as Keras does.

    Raises:
        UsageError: ``legacy_opts`` is set, or a custom optimizer is not a class.

    Example:

    >>> import keras, hvdkit as hvd
    >>> hvd.init()
    >>> hvd.load_model("model.keras")  # doctest: +SKIP
    """
    if legacy_opts:
        raise UsageError(
            "Keras 3 has no legacy optimizers.", fix="leave out legacy_opts; keras.optimizers has them all."
        )
    known = serializable_classes()
    for optimizer in custom_optimizers or ():
        if not isinstance(optimizer, type):
            raise UsageError(f"`custom_optimizers` must be classes. Received: {optimizer!r}.")
        known[optimizer.__name__] = optimizer
    known |= {name: _class_of(name, thing) for name, thing in (custom_objects or {}).items()}
    distributed_arguments = {name: kwargs.pop(name) for name in _ARGUMENTS & kwargs.keys()}
    model = keras.saving.load_model(filepath, custom_objects=known, **kwargs)
    if _is_h5(filepath):
        restore_optimizer(model, filepath)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not is_distributed(optimizer):
        _warn_of_accumulation(optimizer, distributed_arguments)
        DistributedOptimizer(optimizer, compression=compression, **distributed_arguments)
    return model


_ARGUMENTS = inspect.signature(DistributedOptimizer).parameters.keys() - {"optimizer", "compression"}


def _warn_of_accumulation(optimizer: Any, arguments: dict[str, Any]) -> None:
    steps = unwrap(optimizer).gradient_accumulation_steps
    if steps and "backward_passes_per_step" not in arguments:
        get_logger().warning(
            "This model's optimizer accumulates %d steps and uses the mean of their gradients. If it was trained with "
            "backward_passes_per_step=%d, which uses the sum, pass that to load_model too.",
            steps,
            steps,
        )


def _is_h5(filepath: Any) -> bool:
    return isinstance(filepath, h5py.File) or str(filepath).endswith((".h5", ".hdf5"))


def _class_of(name: str, thing: Any) -> Any:
    """Keras 3 makes optimizers by ``from_config`` only: a lambda, as Horovod's users wrote, gets one."""
    if isinstance(thing, type) or getattr(thing, "__name__", "") != "<lambda>":
        return thing
    return type(name, (_Made,), {"make": staticmethod(thing)})


class _Made:
    make: Callable[..., Any]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls.make(**config)
