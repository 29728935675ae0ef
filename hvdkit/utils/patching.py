"""Attributes of classes and modules that are not hvdkit's: replaced for a while, and given back as they were."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Patches:
    """What is replaced, until ``restore``.

    >>> class Theirs:
    ...     def answer(self):
    ...         return 1
    >>> patches = Patches()
    >>> patches.wrap(Theirs, "answer", lambda original: lambda self: original(self) + 1)
    >>> Theirs().answer()
    2
    >>> patches.restore()
    >>> Theirs().answer()
    1
    """

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._replaced)

    def wrap(self, owner: Any, name: str, wrapper: Callable[[Callable], Callable]) -> None:
        """Put ``wrapper(original)`` in the place of an attribute of a class or a module."""
        original = getattr(owner, name)
        self._replaced.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, functools.wraps(original)(wrapper(original)))

    def restore(self) -> None:
        """Give everything back; what was inherited is inherited again."""
        while self._replaced:
            owner, name, own = self._replaced.pop()
            if own is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
