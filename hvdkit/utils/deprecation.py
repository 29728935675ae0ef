"""Deprecated names: they work as before, with a warning that names the new one and the version of the removal."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from hvdkit.errors import UsageError
from hvdkit.version import __version__


def removal_version() -> str:
    """The version that no longer has what is deprecated now: the next minor one.

    >>> from packaging.version import Version
    >>> Version(removal_version()) > Version(__version__)
    True
    """
    major, minor, *_ = __version__.split(".")
    return f"{major}.{int(minor) + 1}"


def warn_deprecated(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that a name has become another.

    Args:
        old: how the caller has written it.
        new: what to write instead.
        stacklevel: of the frame that is named: 3 is whoever called the function that calls this.

    Example:

    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_deprecated("hvd.checkpoint.Keep", "hvd.checkpoint.RetentionPolicy")
    >>> str(caught[0].message).startswith("hvd.checkpoint.Keep is deprecated and will be removed in hvdkit")
    True
    """
    text = f"{old} is deprecated and will be removed in hvdkit {removal_version()}: use {new}."
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)


def renamed_arguments(**renamed: str | tuple[str, Callable[[Any], Any]]) -> Callable[[Callable], Callable]:
    """A decorator for a function some of whose keyword arguments had other names before.

    Args:
        renamed: the new name for each old one, or that and a function which makes the new value of the old one.

    Example:

    >>> @renamed_arguments(k="period", late=("early", lambda late: not late))
    ... def train(period=1, early=True):
    ...     return period, early
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     train(k=4, late=True)
    (4, False)
    """

    def decorate(function: Callable) -> Callable:
        owner = function.__qualname__.rpartition("<locals>.")[2].removesuffix(".__init__")

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old in [name for name in renamed if name in kwargs]:
                new, convert = renamed[old] if isinstance(renamed[old], tuple) else (renamed[old], lambda value: value)
                if new in kwargs:
                    raise UsageError(f"`{old}` is the old name of `{new}`: pass one of them.")
                warn_deprecated(f"`{old}` of {owner}", f"`{new}`")
                kwargs[new] = convert(kwargs.pop(old))
            return function(*args, **kwargs)

        return wrapper

    return decorate
