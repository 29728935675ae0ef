"""What a training consists of: the tensors that all ranks have in common, and those of each rank.

    weights/   trainable and frozen parameters                        common
    optimizer/ slots, iterations, learning rate, loss scale, EMA      common
    own/       seeds of dropout, statistics of batch norm, variables  each rank's
               that are kept local, with their slots
    mean/      gradients accumulated so far, slots of weights that    each rank's; what counts is their mean
               ranks have each for themselves
    apart/     weights that ranks have each for themselves            each rank's; what counts is their mean
    sum/       what metrics have counted in the running epoch         each rank's; what counts is their sum
    random/    Keras', NumPy's and Python's generators                each rank's
    callbacks/ what callbacks keep                                    as they say, or each rank's
    attached/  what belongs to optimizers keeps: their schedules,     as it says
               how they reduce gradients

What is ``Stateful`` says itself what it keeps, and of which kind that is; what belongs to Keras is declared here.
Restored on as many ranks as saved it, each gets its own back, to the last bit. On another number the mean and the sum
are what they were, and ranks that are new get the rest from rank 0. Tensors are matched by their place in the model,
not by their names: those of layers and optimizers carry counters.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.checkpoint import callback_state, plain_data
from hvdkit.checkpoint.object_state import SavedObjects, Tensors, encode_entries, pack
from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import backend_variable, optimizers_of, slots_of
from hvdkit.keras_internals.optimizers import gradient_accumulators, unwrap
from hvdkit.keras_internals.training_state import (
    SCHEDULES,
    ModelContents,
    attached_to,
    averaged_variables,
    trained_variables,
)
from hvdkit.random.state import RandomState
from hvdkit.utils.log import get_logger
from hvdkit.utils.stateful import Entry, Kind, class_name, entries_of, leaves

# What a process has beside its model, by the names in a checkpoint.
OF_PROCESS = {"random": RandomState()}
ATTACHED = "attached"
# The names of tensors that are no variables of the model's.
OTHERS = tuple(f"{name}/" for name in (*OF_PROCESS, ATTACHED, callback_state.GROUP))

_warned: weakref.WeakSet = weakref.WeakSet()


class TrainingState:
    """What a training consists of, collected in one walk over its model.

    Args:
        model: with its optimizers built.

    Attributes:
        common: the variables that are equal on all ranks, by name.
        per_rank: those that each rank has for itself, by name.
        trained: the weights that each of the optimizers trains, by their places.
    """

    def __init__(self, model: keras.Model):
        self.contents = contents = ModelContents(model)
        attached = [(name, thing) for o in contents.optimizers for name, thing in attached_to(o).items()]
        self._attached = list({id(thing): (name, thing) for name, thing in attached}.values())
        self._entries = [entries_of(thing) for _, thing in self._attached]
        weights = _select(contents.weights, among=contents.parameters)
        of_optimizers = contents.optimizer_variables()
        self._in_model = _identities([*contents.weights, *of_optimizers])
        # What belongs to an optimizer may say that weights differ between the ranks: their slots then do too.
        apart = _select(weights, among=self._variables_of_kind(Kind.MEAN))
        accumulated = [v for o in contents.optimizers for v in gradient_accumulators(unwrap(o))]
        slots = lambda of: _select(slots_of(model, of, contents.optimizers), but=accumulated)
        local_slots, apart_slots = slots(contents.local_weights()), slots(apart)
        self.common = {
            **_named("weights", _select(weights, but=apart)),
            **_named("optimizer", _select(of_optimizers, but=[*accumulated, *local_slots, *apart_slots])),
        }
        self._mean = [*accumulated, *apart_slots]
        self.per_rank = {
            **_named("own", [*contents.others(), *_select(of_optimizers, among=local_slots)]),
            **_named("mean", self._mean),
            **_named("apart", weights, apart),
            **_named("sum", model.metrics_variables),
        }
        places = {id(backend_variable(v)): i for i, v in enumerate(contents.weights)}
        self.trained = [
            [places.get(id(backend_variable(v)), -1) for v in trained_variables(o)] for o in contents.optimizers
        ]

    def _variables_of_kind(self, kind: Kind) -> list:
        """The variables that what belongs to the optimizers says to be of a kind."""
        values = [entry.value for entries in self._entries for entry in entries.values() if entry.kind == kind]
        return [v for v in leaves(values) if plain_data.is_variable(v)]

    def _beside_model(self, entries: dict[str, Entry]) -> dict[str, Entry]:
        """Those of an object's entries that are no variables of the model or of an optimizer."""
        in_model = lambda v: plain_data.is_variable(v) and id(backend_variable(v)) in self._in_model
        return {name: entry for name, entry in entries.items() if not any(map(in_model, leaves(entry.value)))}

    def tensors(self, rank: int, callbacks: list, own_weights: dict[int, np.ndarray] | None = None) -> Tensors:
        """Copies of everything that a rank has for itself, by name.

        Args:
            rank: this one.
            callbacks: whose state is saved.
            own_weights: what ``own_weights()`` returned: values to save instead of those that variables have now.
        """
        arrays: list[np.ndarray] = []
        states = [
            {"class": name, **encode_entries(class_name(thing), self._beside_model(entries), arrays, rank)}
            for (name, thing), entries in zip(self._attached, self._entries, strict=True)
        ]
        return {
            **copied(self.per_rank, own_weights),
            **{f"{name}/{n}": np.array(v) for name, of in OF_PROCESS.items() for n, v in of.state_dict().items()},
            **pack(ATTACHED, states, arrays),
            **callback_state.collect_states(callbacks, own_weights=bool(own_weights), rank=rank),
        }

    def load(self, saved: SavedObjects, earlier: dict[str, Any], where: str) -> None:
        """Give what belongs to the optimizers what was saved.

        Args:
            saved: the group of the checkpoint.
            earlier: its manifest's state, where an earlier hvdkit has kept that of the schedules.
            where: the checkpoint, for messages.
        """
        if saved.count:
            here = Counter(name for name, _ in self._attached)
            for name in sorted(name for name in here | saved.count if here[name] != saved.count[name]):
                get_logger().warning(
                    "%s has the state of %d %s, and this training has %d: the others start without state.",
                    where, saved.count[name], name, here[name],
                )  # fmt: skip
            saved.give(self._attached)
            return
        schedules = [thing for name, thing in self._attached if name == SCHEDULES]
        states = [state for state in earlier.get(SCHEDULES, []) if state is not None]
        for schedule, state in zip(schedules, states, strict=False):
            schedule.load_state_dict(state)

    def per_rank_earlier(self) -> dict[str, Any]:
        """``per_rank`` as an earlier hvdkit has named it: what had no group of its own was among the means."""
        beside = _select(self._variables_of_kind(Kind.MEAN), but=self.contents.weights)
        return {**self.per_rank, **_named("mean", [*self._mean, *beside])}

    def warn_of_unreachable_optimizers(self) -> None:
        """Warn, once for each model, of optimizers that the model does not reach."""
        model, unreachable = self.contents.model, self.contents.unreachable_optimizers()
        if model in _warned or (self.contents.optimizers and not unreachable) or not model.trainable_variables:
            return
        _warned.add(model)
        names = ", ".join(sorted(f"{type(o).__name__} ({o.name})" for o in unreachable))
        get_logger().warning(
            "The checkpoint contains no state of %s that trains %s, because the model does not hold it: what only a "
            "local variable or a function holds cannot be found. Make it an attribute of the model, or put it in a "
            "list or a dictionary that is one: model.my_optimizer = optimizer.",
            f"the optimizer {names}" if unreachable else "an optimizer", model.name,
        )  # fmt: skip

    def warn_of_earlier_protocols(self) -> None:
        """Warn, once for a class, of reducers and schedules whose state an earlier hvdkit has saved in another way."""
        for thing, text in self.contents.of_earlier_protocols():
            if type(thing) not in _warned:
                _warned.add(type(thing))
                get_logger().warning(
                    "%s has %s, which is no longer saved: after a resume it starts without state. Give it "
                    "state_dict() and load_state_dict(state), as hvd.checkpoint.Stateful says: %s.",
                    type(thing).__name__, *text,
                )  # fmt: skip


def build_optimizers(model: keras.Model, places: list[list[int]]) -> None:
    """Make the slots of optimizers that only their first step would make: a GAN's, which ``compile`` does not know."""
    contents = ModelContents(model)
    weights = contents.weights
    for optimizer, numbers in zip(contents.optimizers, places, strict=False):
        if not optimizer.built and numbers and all(0 <= n < len(weights) for n in numbers):
            optimizer.build([weights[n] for n in numbers])


def copied(variables: dict[str, Any], own: dict[int, np.ndarray] | None = None) -> Tensors:
    """Their values, copied to this host's memory; for some the value that ``own_weights`` returned."""
    own = own or {}
    return {name: np.array(own.get(id(backend_variable(v)), value_of(v))) for name, v in variables.items()}


def value_of(variable: Any) -> np.ndarray:
    """A variable's value, which may share its memory: to be copied before the next step."""
    backend = backend_variable(variable)
    return np.asarray(backend.read_value()) if isinstance(backend, tf.Variable) else np.asarray(variable.numpy())


def own_weights(model: keras.Model) -> dict[int, np.ndarray]:
    """The weights and their averages of optimizers with ``use_ema``, by the identity of the variables."""
    averaged = [v for optimizer in optimizers_of(model) for v in averaged_variables(optimizer)]
    return {id(backend_variable(v)): np.array(value_of(v)) for v in averaged}


def assign(variables: dict[str, Any], read: Callable[[str], np.ndarray], names: list[str], where: str) -> None:
    """Give variables the values that a checkpoint has for them.

    Args:
        variables: by their names in this process.
        read: a tensor by its name in the checkpoint.
        names: of the checkpoint's tensors.
        where: the checkpoint, for messages.

    Raises:
        UsageError: the checkpoint is of another model or optimizer; the variable is named.
    """
    for name, (variable, stored) in _matched(variables, names, where).items():
        value = read(stored)
        shape = tuple(variable.shape)
        if tuple(value.shape) != shape or value.dtype.name != keras.backend.standardize_dtype(variable.dtype):
            raise UsageError(
                f"The checkpoint {where} does not fit this model: {name} is {variable.dtype} {list(shape)}, and was "
                f"{value.dtype.name} {list(value.shape)} (as {stored}).",
                fix="build the model and the optimizer as they were when it was saved.",
            )
        variable.assign(value)


def _matched(variables: dict[str, Any], names: list[str], where: str) -> dict[str, tuple]:
    """Each variable with the name that its place has in the checkpoint."""
    stored = {_place(name): name for name in names}
    matches = {}
    for name, variable in variables.items():
        if _place(name) not in stored:
            raise UsageError(
                f"The checkpoint {where} does not fit this model: it has nothing for {name}.",
                fix="build the model and the optimizer as they were when it was saved.",
            )
        matches[name] = variable, stored[_place(name)]
    kinds = {_place(name).partition("/")[0] for name in variables}
    extra = sorted(n for p, n in stored.items() if p.partition("/")[0] in kinds and p not in map(_place, variables))
    if extra:
        raise UsageError(
            f"The checkpoint {where} does not fit this model: it has {extra[0]}"
            + (f" and {len(extra) - 1} more" if len(extra) > 1 else "")
            + ", for which there is no variable.",
            fix="build the model and the optimizer as they were when it was saved.",
        )
    return matches


def _identities(variables: list) -> set[int]:
    return {id(backend_variable(v)) for v in variables}


def _select(variables: list, *, among: list | None = None, but: list | None = None) -> list:
    """The variables that are among others, and not among those of ``but``."""
    wanted, unwanted = _identities(variables if among is None else among), _identities(but or [])
    return [v for v in variables if id(backend_variable(v)) in wanted - unwanted]


def _named(kind: str, variables: list, some: list | None = None) -> dict[str, Any]:
    """Names by the places among all variables, of all or of some."""
    wanted = _identities(variables if some is None else some)
    return {f"{kind}/{i:05d}/{_path(v)}": v for i, v in enumerate(variables) if id(backend_variable(v)) in wanted}


def _place(name: str) -> str:
    return "/".join(name.split("/", 2)[:2])


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", None) or getattr(variable, "name", "variable"))
