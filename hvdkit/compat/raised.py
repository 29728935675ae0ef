"""Errors of the types that Horovod raises, which scripts catch: each is also the type that hvdkit has for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvdkit.errors import CommunicationError, HvdkitError, UsageError

# An error of hvdkit's or of Python's -> what Horovod's operations raise for it in TensorFlow.
THEIRS = (
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
            theirs = next((theirs for ours, theirs in THEIRS if isinstance(error, ours)), None)
            if theirs is None or isinstance(error, tf.errors.OpError | NotImplementedError):
                raise
            raise _both(type(error), theirs)(error).with_traceback(error.__traceback__) from error.__cause__

    return wrapper


@functools.cache
def _both(ours: type, theirs: type) -> type:
    """A class of both: named as ours, with the attributes of both."""

    def __init__(self: Any, error: Exception) -> None:
        theirs.__init__(self, None, None, str(error))
        if isinstance(error, HvdkitError):
            self.what, self.fix, self.rank = error.what, error.fix, error.rank

    return type(ours.__name__, (ours, theirs), {"__init__": __init__, "__module__": ours.__module__})
