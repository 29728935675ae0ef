"""What this rank's batch weighs: batches of unequal size, and the mean over all their samples.

The mean over N ranks of weight * gradient is the gradient of all their samples together, where a rank's weight is

    its samples * N / the samples of all ranks

and its gradient that of the mean loss over its own samples. A gradient gets its weight where it is made, when a tape is
asked for it (``weighted_tape.py``). So the gradient of each micro-step of a training that accumulates by itself carries
the weight of its own batch, whatever happens to it before an optimizer applies it. A gradient that was made in another
way is multiplied when an optimizer or a distributed tape is given it.

>>> import tensorflow as tf
>>> with weigh_by(BatchWeight(tf.constant(1.5))):
...     weigh_gradients([tf.constant(2.0)])
[<tf.Tensor: shape=(), dtype=float32, numpy=3.0>]
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from hvdkit.errors import UsageError

# What the operations are called whose results are the same whatever a stand-in for a batch held: see
# ``data/sample_dependence.py``.
ZERO_WITHOUT_SAMPLES = "hvdkit_zero_without_samples"


class BatchWeight:
    """The weight of the step that is being made, or traced.

    Args:
        value: a scalar ``tf.Tensor``, float32; 0 for a rank without samples.
        may_be_zero: a rank may be without samples: then what it brings is made zero, whatever a stand-in for its
            batch gave.
        keep: also keep the value in a variable, for functions that the step calls.

    Attributes:
        carried: gradients of this step that a tape has given the weight.
        met: whether gradients of this step have come by at all, at a tape or at an optimizer.
        inner: gradients of this step that were taken under another tape, and so are parts of a loss as a rule; they
            were not given the weight.
    """

    def __init__(self, value: Any, may_be_zero: bool = False, *, keep: bool = False):
        self._value, self._may_be_zero = value, may_be_zero
        self._graph = _graph()
        self._kept = _variable("weight") if keep else None
        self.met = False
        self.carried: list = []
        self.inner: list = []

    @property
    def value(self) -> tf.Tensor:
        """The weight, for the graph that is being traced."""
        return self._kept.read_value() if self._is_elsewhere() else self._value

    @property
    def may_be_zero(self) -> bool:
        """Whether this rank may be without samples in a step that runs what is being traced."""
        return self._may_be_zero or self._is_elsewhere()

    @contextlib.contextmanager
    def in_step(self) -> Iterator[None]:
        """Inside, gradients are weighed by this; around the whole of a step."""
        if self._kept is not None:
            self._kept.assign(self._value)
            _variable("last").assign(self._value)
        try:
            with weigh_by(self):
                yield
        finally:
            if self._kept is not None:  # a step without weights may call the same functions
                self._kept.assign(1.0)

    def _is_elsewhere(self) -> bool:
        """Within a ``tf.function`` that the step calls: it is traced once, and later called by other steps too."""
        return self._kept is not None and _graph() is not self._graph


def _graph() -> Any:
    """What is being traced; None where nothing is."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


_step = threading.local()  # a strategy's replicas are threads
_variables: dict[str, tf.Variable] = {}


def _variable(name: str) -> tf.Variable:
    """One for all steps of this process, which come one after the other."""
    if name not in _variables:
        with tf.init_scope(), tf.device("CPU:0"):
            _variables[name] = tf.Variable(1.0, trainable=False, name=f"hvdkit_{name}")
    return _variables[name]


def begin_training() -> None:
    """Forget the steps of an earlier training, whose data may have been other."""
    _variable("last").assign(1.0)


def of_last_step() -> float:
    """The weight of the last step that was made; 1 where batches have none."""
    return float(_variable("last").numpy())


def current() -> BatchWeight | None:
    """The weight of the step that is being made; None where all batches are of one size."""
    return getattr(_step, "weight", None)


@contextlib.contextmanager
def weigh_by(weight: BatchWeight | None) -> Iterator[None]:
    """Inside, gradients are weighed by this."""
    before, _step.weight = current(), weight
    try:
        yield
    finally:
        _step.weight = before


def weigh_gradients(gradients: list) -> list:
    """Gradients times the weight, where no tape has given it to them; zeros where this rank has no samples."""
    weight = current()
    if weight is None:
        return list(gradients)
    weight.met = True
    chosen = [i for i, g in enumerate(gradients) if g is not None and _is_unweighted(g, weight)]
    weighed = or_zeros(times([gradients[i] for i in chosen], weight.value), weight)
    weighed_by_index = dict(zip(chosen, weighed, strict=True))
    return [weighed_by_index.get(i, g) for i, g in enumerate(gradients)]


def _is_unweighted(gradient: Any, weight: BatchWeight) -> bool:
    """Whether a gradient that comes to an optimizer has still to be given the weight.

    None has it where no tape gave it. Where tapes did, all have it, also what was added up in earlier steps, but for
    what was made of a gradient that was taken under another tape, and of none that was taken after it.
    """
    if not weight.carried:
        return True
    if not weight.inner or any(gradient is g for g in weight.carried):
        return False
    if any(gradient is g for g in weight.inner):
        return True
    if tf.executing_eagerly():
        raise UsageError(
            "A train step that runs eagerly changed gradients before it applied them, and took some of them while "
            "another tape was recording: hvdkit cannot tell whether these are weighed by their batch already.",
            fix="take the gradients that are applied outside of other tapes' `with` blocks, or leave out "
            "run_eagerly=True.",
        )
    origins = _origins(gradient)
    carried, inner = ({t.name for g in gradients for t in _tensors(g)} for gradients in (weight.carried, weight.inner))
    return not origins & carried and bool(origins & inner)


def _tensors(gradient: Any) -> list:
    return [gradient.values] if isinstance(gradient, tf.IndexedSlices) else [tf.convert_to_tensor(gradient)]


def _origins(gradient: Any) -> set[str]:
    """The names of all tensors of this graph that a gradient was made of."""
    seen, queue = set(), _tensors(gradient)
    while queue:
        tensor = queue.pop()
        if tensor.name not in seen:
            seen.add(tensor.name)
            queue.extend(tensor.op.inputs)
    return seen


def or_zeros(gradients: list, weight: BatchWeight) -> list:
    """The gradients, or zeros where this rank has no samples.

    Not times zero: a stand-in's gradient may be NaN. And by a ``cond``, which copies nothing where all is well. Slices
    become none at all: the rows that a stand-in names are no rows of one process' gradient, and an optimizer with
    momentum would move them.
    """
    if not weight.may_be_zero or all(g is None for g in gradients):
        return list(gradients)
    parts = [[g.values, g.indices] if isinstance(g, tf.IndexedSlices) else [g] for g in gradients]
    there = [tf.convert_to_tensor(p) for part in parts for p in part if p is not None]
    sparse = [len(part) == 2 for part in parts for p in part if p is not None]

    def nothing() -> list:
        return [t[:0] if is_sparse else tf.zeros_like(t) for t, is_sparse in zip(there, sparse, strict=True)]

    chosen = tf.cond(weight.value > 0, lambda: list(map(tf.identity, there)), nothing)
    chosen = iter([tf.identity(c, name=ZERO_WITHOUT_SAMPLES) for c in chosen])
    made = []
    for gradient in gradients:
        if isinstance(gradient, tf.IndexedSlices):
            made.append(tf.IndexedSlices(next(chosen), next(chosen), gradient.dense_shape))
        else:
            made.append(None if gradient is None else next(chosen))
    return made


def times(gradients: list, weight: Any) -> list:
    """Gradients times the weight."""
    return [_times(gradient, weight) for gradient in gradients]


def _times(gradient: Any, weight: Any) -> Any:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(_times(gradient.values, weight), gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(weight, gradient.dtype)
