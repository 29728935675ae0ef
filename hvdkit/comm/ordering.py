"""One collective after the other, also inside a graph.

Horovod's operations are not stateful: TensorFlow starts two of them in any order, and another on each rank. Where both
have one name (the same optimizer applied twice, a function called twice), Horovod would join what does not belong
together. A variable that each reads before and writes after puts them into the order of the program.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tensorflow as tf


class Turns:
    """An order for collectives that may have the same name.

    Attributes:
        taken: how many have been made; a variable outside of Keras, so that no saved model holds it.
    """

    def __init__(self) -> None:
        with tf.init_scope():
            self.taken = tf.Variable(0, dtype=tf.int64, trainable=False, name="hvdkit_turns")

    @contextlib.contextmanager
    def turn(self) -> Iterator[list]:
        """Inside, collectives wait for those of the turn before; put what they return into the list.

        >>> turns = Turns()
        >>> with turns.turn() as made:
        ...     made.append(tf.constant(1.0))  # a collective
        >>> int(turns.taken)
        1
        """
        made: list = []
        with tf.control_dependencies([self.taken.read_value()]):
            yield made
        with tf.control_dependencies([m.values if isinstance(m, tf.IndexedSlices) else m for m in made]):
            self.taken.assign_add(1)
