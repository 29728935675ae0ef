"""``fit``, ``evaluate`` and ``predict`` on several ranks, and with sharded data in one process.

- the consistency check is part of every ``fit``, and averages the weights of local SGD with the epochs;
- data of ``hvd.data.shard`` are told the epoch, and metrics over them are those of all ranks;
- seeds of what layers draw are moved apart;
- ranks other than 0 are silent, unless ``verbose`` says otherwise;
- a collective that was broken off says so, instead of showing this rank's graph.
"""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit.comm import world
from hvdkit.data.sharded import Sharded
from hvdkit.engines import peer_lost
from hvdkit.errors import UsageError, broken_off
from hvdkit.keras_internals.model_contents import reachable_objects
from hvdkit.keras_internals.models import flatten_metrics
from hvdkit.keras_internals.patch_points import is_called_by_fit
from hvdkit.metrics import aggregation
from hvdkit.optim.reduction_state import reduction_states
from hvdkit.random import seeds
from hvdkit.trainer import fit_callbacks
from hvdkit.trainer.feed import feeding
from hvdkit.utils import numbers

trained_models: weakref.WeakSet = weakref.WeakSet()  # the models that were trained on the ranks of this world
_local = False


@contextlib.contextmanager
def local_training() -> Iterator[None]:
    """Let this rank train alone in a ``with`` block: ``fit`` neither involves nor checks the other ranks.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> with hvd.local_training():
    ...     pass  # probe_model.fit(...) with a plain optimizer, on this rank only
    """
    global _local
    before, _local = _local, True
    try:
        yield
    finally:
        _local = before


def on_all_ranks() -> bool:
    """Whether ``fit`` trains one model on several ranks."""
    return world.is_initialized() and world.engine().size > 1 and not _local


def around_fit(original, *, consistency_check: bool):
    """``fit`` that takes sharded data, and on several ranks proves that they train one model."""
    signature = inspect.signature(original)

    from hvdkit.callbacks.consistency_check import ConsistencyCheck, refuse_backups

    def fit(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        numbers.convert_fit_numbers(bound.arguments)
        with fit_callbacks.user_list_unchanged(bound.arguments):
            fit_callbacks.insert_leaders(self, bound.arguments)
            if on_all_ranks():
                return fit_on_all_ranks(self, bound)
            with feeding(self, bound.arguments):
                return original(*bound.args, **bound.kwargs)

    def fit_on_all_ranks(model, bound):
        trained_models.add(model)
        _set_verbosity(bound.arguments)
        checks = _ensure_callback(model, bound.arguments, ConsistencyCheck, make=consistency_check)
        if checks is None:
            refuse_backups(fit_callbacks.callbacks_of_fit(bound.arguments))
        else:
            checks.watch(fit_callbacks.callbacks_of_fit(bound.arguments), bound.arguments["initial_epoch"])
        seeds.separate([g for g in reachable_objects(model) if isinstance(g, keras.random.SeedGenerator)], world.rank())
        kinds = dict.fromkeys(state.fit_callback for state in reduction_states(model))  # ordered alike on all ranks
        for kind in filter(None, kinds):
            _ensure_callback(model, bound.arguments, kind, make=True, first=True)
        world.engine().failure = None
        try:
            with feeding(model, bound.arguments):
                history = original(*bound.args, **bound.kwargs)
            if checks is not None:
                checks.after_fit()
            return history
        except tf.errors.OpError as error:
            if world.engine().failure is not None:
                raise world.engine().failure from None
            broken = peer_lost().search(str(error))
            if broken is None:
                raise
            raise broken_off(broken.group()[:300], world.rank()) from error

    return fit


def around_evaluate(original):
    """``evaluate`` that takes sharded data, which all ranks evaluate together."""
    signature = inspect.signature(original)

    def evaluate(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        if is_called_by_fit(bound.arguments):  # fit feeds its validation data itself, and averages its metrics
            return original(*bound.args, **bound.kwargs)
        numbers.convert_fit_numbers(bound.arguments)
        if on_all_ranks():
            _set_verbosity(bound.arguments)
        if not isinstance(bound.arguments["x"], Sharded):
            return original(*bound.args, **bound.kwargs)
        with fit_callbacks.user_list_unchanged(bound.arguments), feeding(self, bound.arguments):
            if not on_all_ranks():
                return original(*bound.args, **bound.kwargs)
            wants_dict, bound.arguments["return_dict"] = bound.arguments["return_dict"], True
            own = original(*bound.args, **bound.kwargs)
        metrics = aggregation.all_reduce_metrics(self, own)
        return metrics if wants_dict else flatten_metrics(self, metrics)

    return evaluate


def around_predict(original):
    """``predict`` that refuses sharded data."""
    signature = inspect.signature(original)

    def predict(self, x, *args, **kwargs):
        if isinstance(x, Sharded):
            raise UsageError(
                "predict takes no sharded data: each rank would get predictions for samples that it does not know.",
                fix="model.predict(x) with the samples themselves, on rank 0 or, with a part of them, on each.",
            )
        bound = signature.bind(self, x, *args, **kwargs)
        bound.apply_defaults()
        if on_all_ranks():
            _set_verbosity(bound.arguments)
        return original(*bound.args, **bound.kwargs)

    return predict


def _set_verbosity(arguments: dict[str, Any]) -> None:
    from hvdkit.callbacks.progress import verbosity

    if arguments.get("verbose") == "auto":
        arguments["verbose"] = verbosity("auto")


def _ensure_callback(
    model: keras.Model, arguments: dict[str, Any], kind: type, *, make: bool, first: bool = False
) -> keras.callbacks.Callback | None:
    """The callback of this kind among ``fit``'s; if there is none, one is made if ``make``."""
    callback = next((c for c in fit_callbacks.callbacks_of_fit(arguments) if isinstance(c, kind)), None)
    if callback is None and make:
        callback = kind()
        fit_callbacks.add_callback(model, arguments, callback, first=first)
    return callback
