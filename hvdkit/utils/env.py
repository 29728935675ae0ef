"""The only reader of the environment, and of the settings that came with it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping

from hvdkit.errors import ConfigError

PREFIX = "HVDKIT_"


def place() -> str:
    """This host and its PID namespace: a PID means nothing in another one."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}"


def get(name: str, default: str | None = None) -> str | None:
    """One variable of the environment, by its full name."""
    return os.environ.get(name, default)


def flag(name: str, default: bool) -> bool:
    """A yes-or-no variable of hvdkit: ``HVDKIT_<NAME>`` is one of 1, true, yes, on or 0, false, no, off.

    Raises:
        ConfigError: it is something else.
    """
    value = os.environ.get(PREFIX + name, "").strip().lower()
    if not value:
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise ConfigError(f"{PREFIX}{name} should be 0 or 1. Received: {value!r}.")


def text(name: str, default: str) -> str:
    """A text variable of hvdkit, ``HVDKIT_<NAME>``."""
    return os.environ.get(PREFIX + name, "").strip() or default


def number(name: str, default: float) -> float:
    """A number variable of hvdkit, ``HVDKIT_<NAME>``.

    Raises:
        ConfigError: it is not a number.
    """
    value = os.environ.get(PREFIX + name, "").strip()
    if not value:
        return default
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{PREFIX}{name} should be a number. Received: {value!r}.") from None


def set_default(name: str, value: str) -> None:
    """Set a variable that a library reads when it starts, unless the user has set it."""
    os.environ.setdefault(name, value)


def child(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of the environment for a process that is about to be started, with ``extra`` laid over it."""
    return {**os.environ, **(extra or {})}


@contextlib.contextmanager
def during(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for as long as the block lasts.

    Example:

    >>> with during({"HVDKIT_EXAMPLE": "1"}):
    ...     get("HVDKIT_EXAMPLE")
    '1'
    >>> get("HVDKIT_EXAMPLE") is None
    True
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
