"""The optimizer in an ``.h5`` file, which Keras 3 writes and does not read back.

It builds the optimizer for the variables that hang on the model itself and not on its layers, usually none: slots are
lost, and the next step raises "Unknown variable".
"""

from __future__ import annotations

import itertools
from typing import Any

import h5py
import keras

from hvdkit.keras_internals.optimizers import trainable_variables


def restore_optimizer(model: keras.Model, filepath: Any) -> None:
    """Give a model just loaded from an ``.h5`` file an optimizer with the file's slots, where Keras did not."""
    lost = getattr(model, "optimizer", None)
    if lost is None or not lost.built or trainable_variables(lost) or not model.trainable_variables:
        return
    if isinstance(filepath, h5py.File):
        values = _values(filepath)
    else:
        with h5py.File(filepath, "r") as file:
            values = _values(file)
    optimizer = type(lost).from_config(lost.get_config())
    optimizer.build(model.trainable_variables)
    shapes = [tuple(variable.shape) for variable in optimizer.variables]
    if shapes != [value.shape for value in values]:
        raise ValueError(
            f"The optimizer in {filepath} does not fit its model: it has {len(values)} variables, and "
            f"{type(optimizer).__name__} has {len(shapes)} here."
        )
    for variable, value in zip(optimizer.variables, values, strict=True):
        variable.assign(value)
    model.optimizer = optimizer


def _values(file: h5py.File) -> list:
    group = file["optimizer_weights"]
    keys = ["weight_names"]
    if keys[0] not in group.attrs:  # a long list is cut into several attributes
        chunks = map("weight_names{}".format, itertools.count())
        keys = list(itertools.takewhile(group.attrs.__contains__, chunks))
    names = [name if isinstance(name, str) else name.decode() for key in keys for name in group.attrs[key]]
    return [group[name][()] for name in names]
