"""Keys of a configuration that had other names before: they are taken, in a file and in ``--set``, with a warning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvdkit.app.schema import Config, Section, section_of
from hvdkit.errors import ConfigError
from hvdkit.utils.deprecation import warn_deprecated

_Path = tuple[int | str, ...]


class OldNames:
    """Gives keys the names that they have now, and remembers which the user wrote.

    Example:

    >>> import warnings
    >>> names, tree = OldNames(), {"lr": {"base_batch": 64}}
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     names.rename(tree, "train.yaml")
    >>> tree, names.as_written(("lr", "base_batch_size"))
    ({'lr': {'base_batch_size': 64}}, ('lr', 'base_batch'))
    """

    def __init__(self) -> None:
        self._written: dict[_Path, str] = {}

    def rename(self, tree: dict[str, Any], where: str) -> None:
        """Rename the keys of a whole configuration.

        Args:
            tree: the configuration, which is changed.
            where: the file or the ``--set``, for messages.

        Raises:
            ConfigError: a value is there by both names.
        """
        self._rename(tree, Config, (), where)

    def _rename(self, tree: dict[str, Any], section: type[Section], at: _Path, where: str) -> None:
        items = list(tree.items())
        tree.clear()
        for key, value in items:
            new = section.old_names.get(key, key)
            if new != key:
                if new in dict(items):
                    old, now = (".".join(map(str, (*at, name))) for name in (key, new))
                    raise ConfigError(
                        f"{where}: `{old}` is the old name of `{now}`, and both are given.", fix=f"leave out `{old}`."
                    )
                self._note((*at, new), str(key))
            tree[new] = value
            inside = section_of(section, new)
            if inside is not None and isinstance(value, dict):
                self._rename(value, inside, (*at, new), where)

    def rename_override(self, keys: Sequence[str]) -> list[str]:
        """The keys of an override by the names that they have now; what they name is written anew."""
        new: list[str] = []
        section: type[Section] | None = Config
        for key in keys:
            now = key if section is None else section.old_names.get(key, key)
            new.append(now)
            self._written.pop(tuple(new), None)
            if now != key:
                self._note(tuple(new), key)
            section = section and section_of(section, now)
        inside = lambda path: len(path) > len(new) and path[: len(new)] == tuple(new)
        self._written = {path: name for path, name in self._written.items() if not inside(path)}
        return new

    def _note(self, path: _Path, old: str) -> None:
        self._written[path] = old
        now = ".".join(map(str, path))
        warn_deprecated(f"`{'.'.join(map(str, (*path[:-1], old)))}` in a configuration", f"`{now}`")

    def as_written(self, path: _Path) -> _Path:
        """A path of keys as the user wrote it."""
        return tuple(self._written.get(path[: i + 1], key) for i, key in enumerate(path))
