"""Which weights a large-batch recipe leaves alone: biases, and the scales and offsets of normalisation layers."""

from __future__ import annotations

from typing import Any

from hvdkit.errors import UsageError
from hvdkit.keras_internals.optimizers import unwrap

_NAMES = ("bias", "gamma", "beta")


def is_bias_or_norm(variable: Any) -> bool:
    """Whether a weight is a bias or belongs to a normalization, by its dimensions (at most one) or its name.

    The biases of a ``MultiHeadAttention``, which have two dimensions, are recognized by their name.

    Example:

    >>> import keras
    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 2))
    >>> [is_bias_or_norm(weight) for weight in layer.weights]
    [False, True]
    """
    return len(variable.shape) <= 1 or str(getattr(variable, "name", "")).split("/")[-1].split(":")[0] in _NAMES


def exclude_bias_and_norm(optimizer: Any, model: Any) -> Any:
    """Exclude biases and normalization weights from weight decay, which remains for kernels and embeddings.

    Args:
        optimizer: a Keras optimizer (AdamW, Lamb, SGD with ``weight_decay``, ...), distributed or not. The exclusion is
            not saved with the model: call this again after ``hvd.load_model``.
        model: a built model, or a list of variables.

    Returns:
        The optimizer.

    Raises:
        UsageError: the model has no weights yet, or its training step has already been built.

    Paper: X. Jia et al., "Highly Scalable Deep Learning Training System with Mixed-Precision", arXiv:1807.11205, 2018,
    section 3.2; T. He et al., "Bag of Tricks", arXiv:1812.01187, 2018, section 3.1.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> optimizer = exclude_bias_and_norm(keras.optimizers.AdamW(1e-3, weight_decay=0.01), model)
    """
    inner = unwrap(optimizer)
    weights = getattr(model, "trainable_variables", model)
    if not weights:
        raise UsageError(
            "There are no weights to exclude from weight decay: the model is not built.",
            fix="start it with keras.Input(shape), or call it once: model(x[:1]).",
        )
    if getattr(model, "train_function", None) is not None:
        raise UsageError(
            "The model's training step has already been built, so the weight decay can no longer change.",
            fix="call exclude_bias_and_norm before model.fit, or compile the model again.",
        )
    inner.exclude_from_weight_decay(var_list=[v for v in weights if is_bias_or_norm(v)])
    return optimizer
