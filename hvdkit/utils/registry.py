"""Names to objects, resolved on first use, so that listing the choices imports none of them.

>>> encoders = Registry("encoder", {"json": "json:JSONEncoder"})
>>> encoders.names()
['json']
>>> encoders.resolve("json").__name__
'JSONEncoder'
>>> encoders.resolve("jsn")
Traceback (most recent call last):
...
hvdkit.errors.UsageError: Unknown encoder 'jsn'. Known: json.
  What to do: did you mean 'json'?
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

from hvdkit.errors import UsageError
from hvdkit.utils.deprecation import warn_deprecated


def import_object(target: str) -> Any:
    """The object a ``"module:Attribute"`` string names."""
    module, _, attribute = target.partition(":")
    value = importlib.import_module(module)
    for part in filter(None, attribute.split(".")):
        value = getattr(value, part)
    return value


def suggestion(name: str, known) -> str | None:
    """The known name nearest to a misspelt one, as a sentence to put into an error, or None."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else None


def lazy(
    module: dict[str, Any], home: dict[str, str], renamed: dict[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a module whose names are loaded on first use (PEP 562).

    Args:
        module: its ``globals()``; ``__all__`` in it are the names it has.
        home: name to ``"module:Attribute"``.
        renamed: the new name of each that is deprecated.
    """

    def __getattr__(name: str) -> Any:
        if renamed and name in renamed:
            package = module["__name__"].replace("hvdkit", "hvd")
            warn_deprecated(f"{package}.{name}", f"{package}.{renamed[name]}")
            return __getattr__(renamed[name])
        if name not in home:
            known = ", ".join(module["__all__"])
            raise AttributeError(f"module {module['__name__']!r} has no attribute {name!r}. Known: {known}.")
        module[name] = import_object(home[name])
        return module[name]

    return __getattr__, lambda: sorted({*module["__all__"], *(name for name in module if name.startswith("__"))})


class Registry:
    """One kind of thing by name.

    Args:
        kind: what the things are, in the singular, as the error names it: ``"reducer"``.
        entries: name to ``"module:Attribute"``.
    """

    def __init__(self, kind: str, entries: dict[str, str]):
        self.kind = kind
        self._entries = dict(entries)

    def names(self) -> list[str]:
        """The known names, in the order they were registered."""
        return list(self._entries)

    def register(self, name: str, target: str) -> None:
        """Add a name, e.g. one of the user's own, given as ``"module:Attribute"``."""
        self._entries[name] = target

    def check(self, name: str, known: Sequence[str] | None = None) -> None:
        """Refuse a name that is not known, without importing what is behind it.

        Args:
            name: the one that was asked for.
            known: what can be asked for here, such as "auto" too; None is all that is registered.

        Raises:
            UsageError: no such name; the nearest one is suggested.
        """
        known = self.names() if known is None else known
        if name not in known:
            raise UsageError(f"Unknown {self.kind} {name!r}. Known: {', '.join(known)}.", fix=suggestion(name, known))

    def resolve(self, name: str) -> Any:
        """The object behind a name.

        Raises:
            UsageError: no such name; the nearest one is suggested.
        """
        self.check(name)
        return import_object(self._entries[name])
