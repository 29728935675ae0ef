"""Names that have become others: they work as before, and say since when and until when."""

from __future__ import annotations

import warnings

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
