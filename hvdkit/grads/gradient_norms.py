"""The norms of gradients before and after their reduction, from which the gradient noise scale is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf


class GradientNorms:
    """Adds up the squared norms of this rank's gradient and of the reduced one, while ``active``.

    Attributes:
        sums: float64 variable of shape (3,): this rank's own, the reduced one's, and the number of reductions.
        active: a bool variable; nothing is computed while it is False.
        loss_scale: the factor that the gradients carry when they come here; None for 1.
    """

    def __init__(self) -> None:
        with tf.init_scope():
            self.sums = tf.Variable([0.0, 0.0, 0.0], dtype=tf.float64, trainable=False, name="hvdkit_norms")
            self.active = tf.Variable(False, trainable=False, name="hvdkit_norms_active")
        self.loss_scale: Callable[[], Any] | None = None

    def squared_norm(self, gradients: Iterable) -> tf.Tensor:
        """The squared norm of all gradients together; a float64 scalar, 0 while not active.

        >>> norms = GradientNorms()
        >>> norms.active.assign(True) is not None
        True
        >>> float(norms.squared_norm([tf.constant([3.0, 4.0]), tf.constant(1.0)]))
        26.0
        """
        gradients = list(gradients)

        def total() -> tf.Tensor:
            dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
            return tf.add_n([tf.cast(2 * tf.nn.l2_loss(g), tf.float64) for g in dense])

        return tf.cond(self.active, total, lambda: tf.zeros((), tf.float64))

    def add_step(self, own: tf.Tensor, reduced: tf.Tensor) -> None:
        """Add a step; one with NaN or inf, which loss scaling skips, is left out."""
        scale = tf.cast(1.0 if self.loss_scale is None else self.loss_scale(), tf.float64)
        both = tf.stack([own, reduced]) / scale**2
        counts = tf.logical_and(self.active, tf.reduce_all(tf.math.is_finite(both)))
        step = tf.concat([both, tf.ones((1,), tf.float64)], 0)
        self.sums.assign_add(tf.where(counts, step, tf.zeros_like(step)))
