"""One collective after the other, also inside a graph.

Horovod's operations are not stateful: TensorFlow starts two of them in any order, and another on each rank. Where both
have one name (the same optimizer applied twice, a function called twice), Horovod would join what does not belong
together. A variable that each reads before and writes after puts them into the order of the program.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf


class CollectiveOrder:
    """An order for collectives that may have the same name.

    Attributes:
        count: how many have been made; a variable outside of Keras, so that no saved model holds it.
    """

    def __init__(self) -> None:
        with tf.init_scope():
            self.count = tf.Variable(0, dtype=tf.int64, trainable=False, name="hvdkit_collectives")

    @contextlib.contextmanager
    def next(self) -> Iterator[list]:
        """Inside, collectives wait for those before; put what they return into the list.

        >>> order = CollectiveOrder()
        >>> with order.next() as made:
        ...     made.append(tf.constant(1.0))  # a collective
        >>> int(order.count)
        1
        """
        made: list = []
        with tf.control_dependencies([self.count.read_value()]):
            yield made
        with tf.control_dependencies([m.values if isinstance(m, tf.IndexedSlices) else m for m in made]):
            self.count.assign_add(1)
