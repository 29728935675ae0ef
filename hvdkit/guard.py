"""What several ranks need of ``fit`` itself, where no callback reaches: Keras' entry points, wrapped while they train.

- the model is built before the first step, so that rank 0's weights can be sent before it;
- XLA compiles the train step but for the reduction, which has no place inside it;
- the communication proof is part of every ``fit``, and local SGD's rounds end with the epochs;
- data of ``hvd.data.shard`` bring the share of each batch with them, and tapes give it to gradients;
- seeds of what layers draw are moved apart;
- ranks other than 0 are silent, unless ``verbose`` says otherwise;
- a collective that was broken off says so, instead of showing this rank's graph.

In a world of one nothing of this is there; ``training_data.watch_fit`` wraps ``fit`` and ``evaluate`` there, when a
distributed optimizer or sharded data are made.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from hvdkit import fit_callbacks, metric_states, numbers
from hvdkit.beginning import training_begins
from hvdkit.comm import seeds, world
from hvdkit.data.feed import build, feeding, step_on_shares
from hvdkit.data.sharded import Sharded
from hvdkit.engines import peer_lost
from hvdkit.errors import UsageError, broken_off
from hvdkit.grads import weighted_tape
from hvdkit.grads.rounds import rounds_of
from hvdkit.keras_model import held
from hvdkit.log import get_logger
from hvdkit.optim.held import step_of

_originals: dict[str, Any] = {}
_trained: weakref.WeakSet = weakref.WeakSet()  # the models that were trained in this world
_local = False


@contextlib.contextmanager
def local_training() -> Iterator[None]:
    """Inside, ``fit`` is this rank's own affair: no proof, no rank need take part.

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


def install(*, proof: bool) -> None:
    """Wrap Keras' entry points; ``remove`` takes the wrappers off."""
    if _originals:
        return
    wrappers = {
        "fit": functools.partial(_fit, proof=proof),
        "evaluate": _evaluate,
        "predict": _predict,
        "make_train_function": _around_xla,
        "make_test_function": _around_test_step,
        "_maybe_symbolic_build": _build_early,
    }
    weighted_tape.install()
    for name, wrapper in wrappers.items():
        original = getattr(keras.Model, name)
        _originals[name] = keras.Model.__dict__.get(name)
        setattr(keras.Model, name, functools.wraps(original)(wrapper(original)))


def remove() -> None:
    """Give Keras its own entry points back."""
    weighted_tape.remove()
    for model in _trained:  # what is compiled would go on to call collectives of a world that is over
        model.train_function = None
    _trained.clear()
    for name, own in _originals.items():
        if own is None:
            delattr(keras.Model, name)
        else:
            setattr(keras.Model, name, own)
    _originals.clear()


def _fit(original, *, proof: bool):
    signature = inspect.signature(original)

    from hvdkit.callbacks.communication_proof import CommunicationProof, refuse_backups
    from hvdkit.callbacks.local_rounds import LocalRounds

    def fit(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        numbers.of_fit(bound.arguments)
        _trained.add(self)
        with fit_callbacks.borrowed(bound.arguments):
            fit_callbacks.lead(self, bound.arguments)
            if _local:
                with feeding(self, bound.arguments):
                    return original(*bound.args, **bound.kwargs)
            return together(self, bound)

    def together(model, bound):
        _set_verbosity(bound.arguments)
        checks = _with(model, bound.arguments, CommunicationProof, make=proof)
        if checks is None:
            refuse_backups(fit_callbacks.of(bound.arguments))
        else:
            checks.watch(fit_callbacks.of(bound.arguments), bound.arguments["initial_epoch"])
        seeds.separate([g for g in held(model) if isinstance(g, keras.random.SeedGenerator)], world.rank())
        if rounds_of(model):
            _with(model, bound.arguments, LocalRounds, make=True, first=True)
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


def _evaluate(original):
    """Sharded data are evaluated by all ranks together."""
    quiet = _quiet(original)
    signature = inspect.signature(original)

    def evaluate(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        inside_fit = bound.arguments.get("kwargs")  # fit feeds its validation data itself, and averages its metrics
        if _local or inside_fit or not isinstance(bound.arguments["x"], Sharded):
            return quiet(self, *args, **kwargs)
        wants_dict, bound.arguments["return_dict"] = bound.arguments["return_dict"], True
        with fit_callbacks.borrowed(bound.arguments), feeding(self, bound.arguments):
            own = quiet(*bound.args, **bound.kwargs)
        everyones = metric_states.exchanged(self, own)
        return everyones if wants_dict else self._flatten_metrics_in_order(everyones)

    return evaluate


def _quiet(original):
    signature = inspect.signature(original)

    def quiet(self, *args, **kwargs):
        if _local:
            return original(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        _set_verbosity(bound.arguments)
        return original(*bound.args, **bound.kwargs)

    return quiet


def _predict(original):
    quiet = _quiet(original)

    def predict(self, x, *args, **kwargs):
        if isinstance(x, Sharded):
            raise UsageError(
                "predict takes no sharded data: each rank would get predictions for samples that it does not know.",
                fix="model.predict(x) with the samples themselves, on rank 0 or, with a part of them, on each.",
            )
        return quiet(self, x, *args, **kwargs)

    return predict


def _set_verbosity(arguments: dict[str, Any]) -> None:
    from hvdkit.callbacks.progress import verbosity

    if arguments.get("verbose") == "auto":
        arguments["verbose"] = verbosity("auto")


def _with(
    model: keras.Model, arguments: dict[str, Any], kind: type, *, make: bool, first: bool = False
) -> keras.callbacks.Callback | None:
    """The callback of this kind among ``fit``'s; where there is none, one is made, if that is wanted."""
    found = next((c for c in fit_callbacks.of(arguments) if isinstance(c, kind)), None)
    if found is None and make:
        found = kind()
        fit_callbacks.add(model, arguments, found, first=first)
    return found


def _around_xla(original):
    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return original(self, force=force)
        wanted, step = self.jit_compile, None
        if wanted and not _local:
            from hvdkit.optim import compiled

            step = compiled.train_step(self)
        self.jit_compile = bool(wanted and _local)
        step = step_on_shares(self, step or self.train_step, trains=True)
        try:
            with _in_place_of(self, "train_step", _of_model(self, step)):
                return original(self, force=force)
        finally:
            self.jit_compile = wanted

    return make_train_function


def _of_model(model: keras.Model, step: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def train_step(data):
        training_begins()
        with contextlib.nullcontext() if _local else step_of(model):
            return step(data)

    return train_step


def _around_test_step(original):
    def make_test_function(self, force=False):
        with _in_place_of(self, "test_step", step_on_shares(self, self.test_step, trains=False)):
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


def _build_early(original):
    """Build a model that has no shapes yet from the data's, as Keras itself does under a distribution strategy."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        dataset = getattr(iterator, "_distributed_dataset", None)
        sharded = isinstance(getattr(iterator, "data_adapter", None), Sharded)
        wanted = sharded or (self._distribute_strategy is None and not self.built)
        if wanted and dataset is not None and not _local:
            spec = iterator.data_adapter.get_tf_dataset().element_spec if sharded else dataset.element_spec
            why_not = build(self, spec)
            if why_not is not None and world.rank() == 0:
                get_logger().warning(
                    "%s could not be built before its first step: rank 0's weights reach the other ranks only "
                    "after it. Build it first on every rank, e.g. model(x[:1]). (HVDKIT_LOG_LEVEL=DEBUG says why.)",
                    self.name,
                )
        return None if sharded else original(self, iterator=iterator, data_batch=data_batch)

    return _maybe_symbolic_build
