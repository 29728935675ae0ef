"""The steps of ``fit`` and ``evaluate`` on several ranks: what is put around ``train_step`` and ``test_step``.

- the model is built before the first step, so that rank 0's weights can be sent before it;
- XLA compiles the train step but for the reduction, which has no place inside it;
- batches of sharded data bring the weight of their gradients with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from hvdkit.comm import world
from hvdkit.data.sharded import Sharded
from hvdkit.keras_internals.data import distributed_dataset
from hvdkit.keras_internals.models import strategy_given
from hvdkit.optim.ownership import step_of
from hvdkit.trainer.feed import build, weighted_step
from hvdkit.trainer.fit import on_all_ranks
from hvdkit.utils.log import get_logger
from hvdkit.utils.training_start import training_begins


def around_train_function(original):
    """``make_train_function`` that makes it of the step on several ranks."""

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return original(self, force=force)
        wanted, step = self.jit_compile, None
        if wanted and on_all_ranks():
            from hvdkit.trainer import compiled_step

            step = compiled_step.train_step(self)
        self.jit_compile = bool(wanted and not on_all_ranks())
        step = weighted_step(self, step or self.train_step, trains=True)
        try:
            with _in_place_of(self, "train_step", _step_of_model(self, step)):
                return original(self, force=force)
        finally:
            self.jit_compile = wanted

    return make_train_function


def _step_of_model(model: keras.Model, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def train_step(data):
        training_begins()
        with step_of(model) if on_all_ranks() else contextlib.nullcontext():
            return step(data)

    return train_step


def around_test_function(original):
    """``make_test_function`` that makes it of a step which takes sharded data."""

    def make_test_function(self, force=False):
        with _in_place_of(self, "test_step", weighted_step(self, self.test_step, trains=False)):
            return original(self, force=force)

    return make_test_function


@contextlib.contextmanager
def _in_place_of(model: keras.Model, name: str, function: Any) -> Iterator[None]:
    own = vars(model).get(name)
    vars(model)[name] = function
    try:
        yield
    finally:
        if own is None:
            del vars(model)[name]
        else:
            vars(model)[name] = own


def around_build(original):
    """Build a model that has no shapes yet from the data's, as Keras itself does under a distribution strategy."""

    def build_from_data(self, iterator=None, data_batch=None):
        dataset = distributed_dataset(iterator)
        sharded = isinstance(getattr(iterator, "data_adapter", None), Sharded)
        wanted = sharded or (strategy_given(self) is None and not self.built)
        if wanted and dataset is not None and on_all_ranks():
            spec = iterator.data_adapter.get_tf_dataset().element_spec if sharded else dataset.element_spec
            why_not = build(self, spec)
            if why_not is not None and world.rank() == 0:
                get_logger().warning(
                    "%s could not be built before its first step: rank 0's weights reach the other ranks only "
                    "after it. Build it first on every rank, e.g. model(x[:1]). (HVDKIT_LOG_LEVEL=DEBUG says why.)",
                    self.name,
                )
        return None if sharded else original(self, iterator=iterator, data_batch=data_batch)

    return build_from_data
