"""The batch norms of an existing model, all changed at once."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import refresh_normalization
from hvdkit.layers.sync_batch_norm import SyncBatchNormalization


def with_batch_norm(
    model: keras.Model, *, synchronized: bool | None = None, momentum: float | None = None
) -> keras.Model:
    """Copy a model, including its weights, with different settings of its batch norms.

    By default each rank normalizes with the statistics of its own batch, as in the recipe of Goyal et al., which has
    about 32 samples per rank. If there are only few samples per rank, use the statistics of all ranks.

    Args:
        model: a Functional or Sequential model that is built and not yet compiled.
        synchronized: True uses statistics over all ranks' batches (``hvd.SyncBatchNormalization``), False uses those of
            each rank's batch, and None leaves them unchanged.
        momentum: the momentum of the moving mean and variance; a training with few, large batches needs less than
            Keras' 0.99.

    Raises:
        UsageError: the model has no batch norm, or cannot be copied because it has a custom class.

    Paper: P. Goyal et al., arXiv:1706.02677, 2017, section 2.3.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    >>> copy = with_batch_norm(model, synchronized=True, momentum=0.9)
    >>> type(copy.layers[0]).__name__, copy.layers[0].momentum
    ('SyncBatchNormalization', 0.9)
    """
    changed = 0

    def copied(layer: Any) -> Any:
        nonlocal changed
        if isinstance(layer, keras.Model) and _can_be_copied(layer):  # a model inside a model
            return keras.models.clone_model(layer, clone_function=copied)
        if isinstance(getattr(layer, "layer", None), keras.layers.BatchNormalization):
            raise UsageError(
                f"{layer.name} is a {type(layer).__name__} around a batch norm, which is not changed.",
                fix="set synchronized or momentum where the layer is created.",
            )
        if not isinstance(layer, keras.layers.BatchNormalization):
            return layer.__class__.from_config(layer.get_config())
        changed += 1
        config = layer.get_config()
        config |= {} if momentum is None else {"momentum": momentum}
        cls = type(layer)
        if synchronized is not None:
            cls = SyncBatchNormalization if synchronized else keras.layers.BatchNormalization
            unsupported = () if synchronized else ("process_set",)  # only the synchronized one takes it
            config = {k: v for k, v in config.items() if k not in ("synchronized", *unsupported)}
        return cls.from_config(config)

    if not _can_be_copied(model):
        raise UsageError(
            f"A {type(model).__name__} is a custom class, which cannot be copied.",
            fix="use hvd.SyncBatchNormalization() or momentum= where it creates its layers.",
        )
    if not model.built:
        raise UsageError(f"{model.name} is not built.", fix="begin it with keras.Input(shape).")
    copy = keras.models.clone_model(model, clone_function=copied)
    if not changed:
        raise UsageError(f"{model.name} has no batch norm.", fix="leave out with_batch_norm.")
    copy.set_weights(model.get_weights())
    refresh_normalization(copy)
    return copy


def _can_be_copied(model: keras.Model) -> bool:
    return isinstance(model, keras.Sequential) or type(model).__name__ == "Functional"
