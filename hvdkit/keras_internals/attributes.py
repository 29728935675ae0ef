"""The attributes that hvdkit puts on objects of Keras and TensorFlow: each is written and read here.

Keras tracks none of them, and no saved model holds any.
"""

from __future__ import annotations

import weakref
from typing import Any

_REDUCTION_STATE, _PIPELINE, _LOCAL_SOURCES = "_hvdkit", "_hvdkit_pipeline", "_hvdkit_local"
_LOCAL, _PATH, _FOLLOWS, _TOLD, _RANK = (
    "_hvdkit_local",
    "_hvdkit_path",
    "_hvdkit_follows",
    "_hvdkit_told",
    "_hvdkit_rank",
)


_distributed: weakref.WeakSet = weakref.WeakSet()


def is_own(name: str) -> bool:
    """Whether an attribute of somebody else's object is one of hvdkit's.

    >>> is_own("_hvdkit_path"), is_own("_path")
    (True, False)
    """
    return name.startswith("_hvdkit")


def set_reduction_state(optimizer: Any, state: Any) -> None:
    """Note how an optimizer reduces its gradients."""
    setattr(optimizer, _REDUCTION_STATE, state)
    _distributed.add(optimizer)


def distributed_optimizers() -> list:
    """The optimizers that reduce gradients and are alive."""
    return list(_distributed)


def own_reduction_state(optimizer: Any) -> Any:
    """How this very optimizer reduces its gradients, whatever is inside it; None where it does not."""
    return getattr(optimizer, _REDUCTION_STATE, None)


def set_reduction(tape: Any, pipeline: Any, local_sources: Any) -> None:
    """Note by which pipeline a gradient tape reduces, and the sources whose gradients it does not reduce."""
    setattr(tape, _PIPELINE, pipeline)
    setattr(tape, _LOCAL_SOURCES, local_sources)


def pipeline_of(tape: Any) -> Any:
    """The pipeline of a distributed gradient tape."""
    return getattr(tape, _PIPELINE)


def local_sources_of(tape: Any) -> Any:
    """The sources whose gradients a distributed gradient tape does not reduce."""
    return getattr(tape, _LOCAL_SOURCES)


def mark_local(variable: Any) -> None:
    """Mark a TensorFlow variable as each rank's own."""
    setattr(variable, _LOCAL, True)


def is_local(variable: Any) -> bool:
    """Whether a TensorFlow variable was marked as each rank's own."""
    return getattr(variable, _LOCAL, False)


def set_path(variable: Any, path: str) -> None:
    """Note where a model holds a TensorFlow variable: "Variable:0", its own name, says nothing."""
    setattr(variable, _PATH, path)


def path_of(variable: Any, default: str = "") -> str:
    """The path of a Keras variable, or where a model holds a TensorFlow variable; the default if it is unknown."""
    return getattr(variable, "path", None) or getattr(variable, _PATH, default)


def set_follows(variable: Any, follows: str) -> None:
    """Note what changes a TensorFlow variable: the steps or the samples."""
    setattr(variable, _FOLLOWS, follows)


def follows_of(variable: Any) -> str | None:
    """What was declared to change a TensorFlow variable; None if nothing was."""
    return getattr(variable, _FOLLOWS, None)


def tell_once(variable: Any) -> bool:
    """Whether a variable is spoken of for the first time; from now on it has been."""
    first = not hasattr(variable, _TOLD)
    setattr(variable, _TOLD, True)
    return first


def separate_once(generator: Any, rank: int) -> bool:
    """Whether a seed generator is not moved to a rank's own numbers yet; from now on it is."""
    first = not hasattr(generator, _RANK)
    if first:
        setattr(generator, _RANK, rank)
    return first


def velocity_holds_rate(optimizer: Any) -> bool:
    """Whether an optimizer class says that its velocities are sums of ``rate * step``, as those of SGD are."""
    return getattr(optimizer, "velocity_holds_rate", False)
