"""Everything of Keras and TensorFlow that is wrapped, put on by ``hvd.init()`` and taken off by ``hvd.shutdown()``.

Nothing else in hvdkit changes a class that is not its own (but for ``python -m hvdkit.compat``, and the order of
collectives in ``comm/mpi/graph_order.py``, which belongs to that engine). In a single process the graph of a train step
is nevertheless Keras' own, operation by operation.
"""

from __future__ import annotations

import functools

import keras

from hvdkit.keras_internals.patch_points import BUILD_FROM_DATA, STEPS_OF_EPOCH
from hvdkit.optim import loss_scale
from hvdkit.trainer import feed, fit, step, weighted_tape
from hvdkit.utils.patching import Patches

_patches = Patches()


def install_patches(*, several: bool, consistency_check: bool) -> None:
    """Wrap what has to be wrapped; ``remove_patches`` takes it off.

    Args:
        several: there are several ranks.
        consistency_check: ``hvd.callbacks.ConsistencyCheck`` is part of every ``fit``.
    """
    if _patches:
        return
    wrap = _patches.wrap
    # Sharded data are told the epoch before its first batch is asked for; a callback hears of it too late, and of
    # `evaluate` not before its data are read.
    wrap(keras.Model, "fit", functools.partial(fit.around_fit, consistency_check=consistency_check))
    wrap(keras.Model, "evaluate", fit.around_evaluate)
    # Keras asks for an epoch's length once, and counts a step that finds no data any more.
    wrap(*STEPS_OF_EPOCH, feed.around_steps)
    # `compile` puts one around an optimizer without telling it; its first `apply` asks for finite gradients at once.
    wrap(keras.optimizers.LossScaleOptimizer, "__init__", loss_scale.around_init)
    wrap(keras.optimizers.LossScaleOptimizer, "apply", loss_scale.around_apply)
    if not several:
        return
    # It would draw a progress bar on every rank.
    wrap(keras.Model, "predict", fit.around_predict)
    # A `train_step` can be a user's own, in a subclass: the function made of it is the one place that all pass.
    wrap(keras.Model, "make_train_function", step.around_train_function)
    wrap(keras.Model, "make_test_function", step.around_test_function)
    # Rank 0's weights are sent when the training begins, where Keras has not built a model without shapes yet.
    wrap(*BUILD_FROM_DATA, step.around_build)
    # A tape has no hook, and nothing else sees a gradient before the train step does.
    weighted_tape.patch_tape(_patches)


def remove_patches() -> None:
    """Restore what Keras and TensorFlow had."""
    _patches.restore()
    weighted_tape.forget()
    for model in fit.trained_models:  # a compiled function would continue to call collectives of a world that is over
        model.train_function = None
    fit.trained_models.clear()
