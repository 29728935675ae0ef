"""What a training consists of: the tensors that all ranks have in common, and those of each rank.

    weights/   trainable and frozen parameters                        common
    optimizer/ slots, iterations, learning rate, loss scale, EMA      common
    own/       seeds of dropout, statistics of batch norm, variables  each rank's
               that are kept local, with their slots
    mean/      gradients accumulated so far, residuals of reducers,   each rank's; what counts is their mean
               slots of local SGD
    apart/     weights of local SGD                                   each rank's; what counts is their mean
    sum/       what metrics have counted in the running epoch         each rank's; what counts is their sum
    random/    Keras', NumPy's and Python's generators                each rank's
    callbacks/ what callbacks keep (callback_state.py)                each rank's

Restored on as many ranks as saved it, each gets its own back, to the last bit. On another number the mean and the sum
are what they were, and ranks that are new get the rest from rank 0. Tensors are found by their place in the model, not
by names: those of layers and optimizers carry counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import (
    distribution_of,
    optimizer_state_of,
    optimizers_of,
    parameters_of,
    slots_of,
    underlying,
    unwrap,
    weights_of,
)
from hvdkit.optim.local_sgd.state import rounds_of
from hvdkit.random.state import random_state, set_random_state

Tensors = dict[str, np.ndarray]


def common_variables(model: keras.Model) -> dict[str, Any]:
    """The variables that are equal on all ranks, by name."""
    parameters = {id(underlying(v)) for v in parameters_of(model)}
    slots = _own_slots(model)
    apart = {id(underlying(v)) for v in [*apart_of(model), *_rounds(model)]}
    weights = [v for v in weights_of(model) if id(underlying(v)) in parameters - apart]
    optimizer = [v for v in optimizer_state_of(model) if id(v) not in slots and id(underlying(v)) not in apart]
    return {**_named("weights", weights), **_named("optimizer", optimizer)}


def own_variables(model: keras.Model) -> dict[str, Any]:
    """The variables that each rank has for itself, by name."""
    parameters = {id(underlying(v)) for v in parameters_of(model)}
    others = [*model.weights, *model.non_trainable_variables, *weights_of(model)]
    skip = {*parameters, *(id(underlying(v)) for v in model.metrics_variables)}
    others = list({id(v): v for v in others if id(underlying(v)) not in skip}.values())
    slots = _own_slots(model)
    accumulated = {id(v) for v in _accumulators(model)}
    own = [*others, *(v for v in optimizer_state_of(model) if id(v) in slots and id(v) not in accumulated)]
    mean = [*_accumulators(model), *_residuals(model), *_rounds(model)]
    apart = _named("apart", [v for v in weights_of(model) if id(underlying(v)) in parameters], apart_of(model))
    return {**_named("own", own), **_named("mean", mean), **apart, **_named("sum", model.metrics_variables)}


def trained(model: keras.Model) -> list[list[int]]:
    """The weights that each of a model's optimizers trains, by their places."""
    places = {id(underlying(v)): i for i, v in enumerate(weights_of(model))}
    inner = [getattr(o, "inner_optimizer", o) for o in optimizers_of(model)]
    return [[places.get(id(underlying(v)), -1) for v in o._trainable_variables] if o.built else [] for o in inner]


def build_optimizers(model: keras.Model, places: list[list[int]]) -> None:
    """Make the slots of optimizers that only their first step would make: a GAN's, which ``compile`` does not know."""
    weights = weights_of(model)
    for optimizer, numbers in zip(optimizers_of(model), places, strict=False):
        if not optimizer.built and numbers and all(0 <= n < len(weights) for n in numbers):
            optimizer.build([weights[n] for n in numbers])


def copied(variables: dict[str, Any], own: dict[int, np.ndarray] | None = None) -> Tensors:
    """Their values, copied to this host's memory; of some the value that ``own_weights`` has found."""
    own = own or {}
    return {name: np.array(own.get(id(underlying(v)), value_of(v))) for name, v in variables.items()}


def value_of(variable: Any) -> np.ndarray:
    """A variable's value, which may share its memory: to be copied before the next step."""
    held = underlying(variable)
    return np.asarray(held.read_value()) if isinstance(held, tf.Variable) else np.asarray(variable.numpy())


def own_weights(model: keras.Model) -> dict[int, np.ndarray]:
    """The weights and their averages of optimizers with ``use_ema``, by the identity of the variables."""
    inner = [unwrap(o) for o in optimizers_of(model)]
    averaged = [o for o in inner if getattr(o, "use_ema", False) and o.built]
    held = [v for o in averaged for v in (*o._trainable_variables, *o._model_variables_moving_average)]
    return {id(underlying(v)): np.array(value_of(v)) for v in held}


def randoms() -> Tensors:
    """``random_state`` under its names in a checkpoint."""
    return {f"random/{name}": array for name, array in random_state().items()}


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
    found = {}
    for name, variable in variables.items():
        if _place(name) not in stored:
            raise UsageError(
                f"The checkpoint {where} does not fit this model: it has nothing for {name}.",
                fix="build the model and the optimizer as they were when it was saved.",
            )
        found[name] = variable, stored[_place(name)]
    kinds = {_place(name).partition("/")[0] for name in variables}
    extra = sorted(n for p, n in stored.items() if p.partition("/")[0] in kinds and p not in map(_place, variables))
    if extra:
        raise UsageError(
            f"The checkpoint {where} does not fit this model: it has {extra[0]}"
            + (f" and {len(extra) - 1} more" if len(extra) > 1 else "")
            + ", for which there is no variable.",
            fix="build the model and the optimizer as they were when it was saved.",
        )
    return found


def joined(kind: str, parts: list[np.ndarray], rank: int) -> np.ndarray:
    """What a rank gets of a tensor that ranks of another number had.

    >>> joined("mean", [np.float32([1.0]), np.float32([3.0])], 0), joined("sum", [np.float32([1.0])] * 2, 1)
    (array([2.], dtype=float32), array([0.], dtype=float32))
    """
    if kind in ("mean", "apart"):
        return np.mean(np.stack(parts).astype(np.float64), axis=0).astype(parts[0].dtype)
    if kind == "sum":
        total = np.sum(np.stack(parts).astype(np.float64), axis=0).astype(parts[0].dtype)
        return total if rank == 0 else np.zeros_like(total)
    return parts[rank] if rank < len(parts) else parts[0]


def set_randoms(tensors: Tensors) -> None:
    """Set what ``randoms`` took down."""
    set_random_state({name.removeprefix("random/"): a for name, a in tensors.items() if name.startswith("random/")})


def _named(kind: str, variables: list, some: list | None = None) -> dict[str, Any]:
    """Names by the places among all variables, of all or of some."""
    wanted = {id(underlying(v)) for v in (variables if some is None else some)}
    return {f"{kind}/{i:05d}/{_path(v)}": v for i, v in enumerate(variables) if id(underlying(v)) in wanted}


def _place(name: str) -> str:
    return "/".join(name.split("/", 2)[:2])


def _path(variable: Any) -> str:
    return str(getattr(variable, "path", None) or getattr(variable, "name", "variable"))


def _accumulators(model: keras.Model) -> list:
    """Gradients of this rank that wait for their reduction."""
    found: list = []
    for optimizer in optimizers_of(model):
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        found += list(getattr(inner, "_accumulated_gradients", None) or ())
    return found


def _own_slots(model: keras.Model) -> set[int]:
    """The optimizers' variables that belong to one rank: of local variables, and accumulated gradients."""
    local = [v for v in weights_of(model) if getattr(underlying(v), "_hvdkit_local", False)]
    return {id(v) for v in [*slots_of(model, local), *_accumulators(model)]}


def apart_of(model: keras.Model) -> list:
    """The weights that local SGD lets go apart."""
    return [v for rounds in rounds_of(model) for v in rounds.variables]


def _rounds(model: keras.Model) -> list:
    """The slots of local SGD's weights, and what its rounds keep."""
    accumulated = {id(v) for v in _accumulators(model)}
    slots = [v for v in slots_of(model, apart_of(model)) if id(v) not in accumulated]
    return [*slots, *(v for rounds in rounds_of(model) for v in rounds.state)]


def _residuals(model: keras.Model) -> list:
    """What the reducers of the model's optimizers keep from step to step: their ``variables``, if they have any."""
    return list(_reducer_variables(model))


def _reducer_variables(model: keras.Model) -> Iterator[Any]:
    seen: set[int] = set()
    for optimizer in optimizers_of(model):
        ours = distribution_of(optimizer)
        reducer = None if ours is None else ours.pipeline.options.reducer
        if reducer is not None and id(reducer) not in seen:
            seen.add(id(reducer))
            yield from getattr(reducer, "variables", ())
