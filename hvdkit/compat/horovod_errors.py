"""Errors of the types that Horovod raises, which scripts catch: each is also the type that hvdkit has for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvdkit.errors import CommunicationError, HvdkitError, UsageError

# A type of hvdkit's or Python's -> the type that Horovod's operations raise for it in TensorFlow.
HOROVOD_TYPES = (
    (CommunicationError, tf.errors.FailedPreconditionError),
    (ValueError, tf.errors.InvalidArgumentError),
)


class NotForSlicesError(UsageError, NotImplementedError):
    """What ``tf.IndexedSlices`` do not have."""


class EagerError(UsageError, RuntimeError):
    """What needs a graph of TensorFlow 1."""


def as_horovod_raises(collective: Callable) -> Callable:
    """A collective whose errors are also those of Horovod's operation."""

    @functools.wraps(collective)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return collective(*args, **kwargs)
        except Exception as error:
            horovod_type = next((other for own, other in HOROVOD_TYPES if isinstance(error, own)), None)
            if horovod_type is None or isinstance(error, tf.errors.OpError | NotImplementedError):
                raise
            raise _both(type(error), horovod_type)(error).with_traceback(error.__traceback__) from error.__cause__

    return wrapper


@functools.cache
def _both(own_type: type, horovod_type: type) -> type:
    """A class that derives from both and has hvdkit's name, with the attributes of both."""

    def __init__(self: Any, error: Exception) -> None:
        horovod_type.__init__(self, None, None, str(error))
        if isinstance(error, HvdkitError):
            self.what, self.fix, self.rank = error.what, error.fix, error.rank

    return type(own_type.__name__, (own_type, horovod_type), {"__init__": __init__, "__module__": own_type.__module__})
