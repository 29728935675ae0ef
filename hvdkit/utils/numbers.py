"""Numbers that users pass: Python's, NumPy's, and those that a collective returned, arrays and tensors without axes.

>>> import numpy as np
>>> whole(np.array(3), "k"), whole(np.int64(3), "k"), real(np.float32(0.5), "rate")
(3, 3, 0.5)
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

from hvdkit.errors import UsageError


def plain(value: Any) -> Any:
    """The Python number that a value is; None where it is none, as a bool, a string or an array with axes.

    Example:

    >>> plain(3), plain(0.5), plain(True), plain("3"), plain([3])
    (3, 0.5, None, None, None)
    """
    if type(value) in (int, float):
        return value
    if isinstance(value, bool | str | bytes):
        return None
    if hasattr(value, "__array__"):
        return _without_axes(value)
    if hasattr(value, "__index__"):
        return value.__index__()
    return float(value) if isinstance(value, float) else None


def _without_axes(value: Any) -> int | float | None:
    numpy = sys.modules["numpy"]  # who has an array has it
    if isinstance(value, numpy.ndarray | numpy.generic):
        array = numpy.asarray(value)
    elif hasattr(value, "numpy"):  # TensorFlow's and Keras'; inside a graph they have no value yet
        array = numpy.asarray(value.numpy())
    else:
        return None
    if array.ndim:
        return None
    if array.dtype.kind in "iu":
        return int(array)
    return float(array) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else None


def whole(value: Any, name: str, least: int | None = None, most: int | None = None) -> int:
    """An argument that must be a whole number, as Python's.

    Args:
        value: what was passed.
        name: of the argument, as the error says it.
        least, most: its range; None is no limit.

    Raises:
        UsageError: it is no whole number, or out of its range.

    Example:

    >>> whole(4, "k", 1)
    4
    """
    number = plain(value)
    if isinstance(number, int) and (least is None or number >= least) and (most is None or number <= most):
        return number
    if most is not None:
        range_ = f" from {least or 0} to {most}"
    else:
        range_ = "" if least is None else f" of at least {least}"
    raise UsageError(f"`{name}` must be a whole number{range_}. Received: {name}={value!r}.")


def real(value: Any, name: str) -> float:
    """An argument that must be a number, as Python's; a whole one stays whole.

    Args:
        value: what was passed.
        name: of the argument, as the error says it.

    Raises:
        UsageError: it is no number, or NaN.

    Example:

    >>> real(0.5, "rate"), real(2, "rate")
    (0.5, 2)
    """
    number = plain(value)
    if number is None or math.isnan(number):
        raise UsageError(f"`{name}` must be a number. Received: {name}={value!r}.")
    return number


def flag(value: Any, name: str, kinds: str = "True or False") -> bool:
    """An argument that must be true or false, as Python's.

    Args:
        value: what was passed: Python's or NumPy's, or 0 or 1.
        name: of the argument, as the error says it.
        kinds: what the argument may be, likewise.

    Raises:
        UsageError: it is something else.

    Example:

    >>> flag(True, "shuffle"), flag(0, "shuffle")
    (True, False)
    """
    numpys = getattr(getattr(value, "dtype", None), "name", "") == "bool" and not value.shape
    if isinstance(value, bool) or numpys or plain(value) in (0, 1):
        return bool(value)
    raise UsageError(f"`{name}` must be {kinds}. Received: {name}={value!r}.")


def by_class(value: Any, name: str = "class_weight") -> dict[int, float]:
    """The weight of each class, with whole numbers as keys: JSON and YAML have made texts of them.

    Keras itself takes a class that it does not find, as "1" is not 1, for one without a weight.

    Args:
        value: what was passed.
        name: of the argument, as the error says it.

    Raises:
        UsageError: it is no dict, a key is no class, or a value is no finite number.

    Example:

    >>> by_class({"0": 1, 1: 2.5})
    {0: 1.0, 1: 2.5}
    """
    if not hasattr(value, "items"):  # a series of pandas has them, and Keras takes it
        is_list = isinstance(value, list | tuple) or hasattr(value, "__array__")
        way = "dict(enumerate(weights))" if is_list else "hvd.data.class_weights(y), from the targets of all ranks."
        raise UsageError(
            f"`{name}` must be a dict with a weight for each class. Received: a {type(value).__name__}.",
            fix=f"{name}={way}",
        )
    weights: dict[int, float] = {}
    for key, given in value.items():
        is_bool = type(key).__name__ in ("bool", "bool_")  # also NumPy's
        number = int(key) if is_bool or (isinstance(key, str) and _WHOLE.fullmatch(key)) else plain(key)
        if number is None or not abs(number) < 2**63 or number != int(number):
            raise UsageError(f"The keys of `{name}` must be classes, whole numbers. Received: {key!r}.")
        if int(number) in weights:
            raise UsageError(f"`{name}` has the class {int(number)} twice.")
        weight = real(given, f"{name}[{key!r}]")
        if not abs(weight) < 1e300:
            raise UsageError(f"`{name}[{key!r}]` must be finite. Received: {weight!r}.")
        weights[int(number)] = float(weight)
    return weights


_WHOLE = re.compile(r"\s*[-+]?\d{1,18}\s*")


def seconds_of(time: float | str | None, name: str = "max_time") -> float | None:
    """A time as seconds; None is none.

    Args:
        time: seconds, or ``"3:50:00"``.
        name: of the argument, as the error says it.

    Raises:
        UsageError: it is neither, or not above 0.

    Example:

    >>> seconds_of("1:30:00"), seconds_of("45:30"), seconds_of(90)
    (5400.0, 2730.0, 90.0)
    """
    if time is None:
        return None
    if isinstance(time, str) and re.fullmatch(r"([0-9]{1,9}:)?[0-9]{1,3}:[0-9]{2}", time):
        seconds: Any = 0
        for number in time.split(":"):
            seconds = seconds * 60 + int(number)
    else:
        seconds = plain(time)
    if seconds is not None and (0 < seconds < 2**63 or seconds == math.inf):
        return float(seconds)
    raise UsageError(f'`{name}` must be seconds, or "3:50:00". Received: {name}={time!r}.')


def convert_fit_numbers(arguments: dict[str, Any]) -> None:
    """Make the numbers among the arguments of ``fit`` Python's: broadcast ones come as arrays or tensors.

    Args:
        arguments: by name; changed in place. What is no number is left to Keras to refuse, but for class weights,
            which Keras would pass over.

    Raises:
        UsageError: class weights that are none.
    """
    if arguments.get("class_weight") is not None:
        arguments["class_weight"] = by_class(arguments["class_weight"])
    for name in _FIT_NUMBERS:
        number = plain(arguments.get(name))
        if number is not None:
            arguments[name] = number


_FIT_NUMBERS = (
    "epochs", "initial_epoch", "steps_per_epoch", "batch_size", "validation_steps", "validation_batch_size",
    "validation_freq", "validation_split", "steps",
)  # fmt: skip
