"""Losses that Keras lacks."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("hvdkit")
class SmoothSparseCategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
    """Label smoothing for integer labels; Keras supports it only for one-hot labels.

    With K classes, the true class has the weight ``1 - label_smoothing + label_smoothing / K``, and each other class
    has the weight ``label_smoothing / K``.

    Args:
        from_logits: whether the model's outputs are logits instead of probabilities.
        label_smoothing: a number between 0 and 1.
        kwargs: the arguments of any Keras loss.

    Paper: C. Szegedy et al., "Rethinking the Inception Architecture", arXiv:1512.00567, 2015, section 7.

    Example:

    >>> loss = SmoothSparseCategoricalCrossentropy(label_smoothing=0.1)
    >>> round(float(loss([1], [[0.2, 0.7, 0.1]])), 4)
    0.4633
    """

    def __init__(self, from_logits: bool = False, label_smoothing: float = 0.1, **kwargs):
        super().__init__(from_logits=from_logits, label_smoothing=label_smoothing, **kwargs)

    def call(self, y_true, y_pred):
        """Labels of shape (batch, ...) or (batch, ..., 1), outputs of shape (batch, ..., classes)."""
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == 1:
            y_true = ops.squeeze(y_true, -1)
        labels = ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        return super().call(labels, y_pred)
