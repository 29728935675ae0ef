"""Where Python asks for modules: ``horovod`` is answered by the stand-ins, and Keras 3 gets its old words.

Nothing is imported before the script imports it, so that what a script puts into the environment before it imports
TensorFlow still counts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from hvdkit.comm import horovod
from hvdkit.compat import idioms, library_parts, old_names, stand_ins


def install() -> None:
    """Answer imports from here on. Call it before the script's first line, once."""
    finder = Finder()
    sys.meta_path.insert(0, finder)
    horovod.standing_aside = finder.aside
    for name, module in list(sys.modules.items()):  # what was imported before
        if module is not None:
            finder.arrived(name, module)


class Finder(MetaPathFinder):
    """The first that Python asks."""

    def __init__(self) -> None:
        self._answers = True
        self._library: dict[str, ModuleType] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] == "horovod":
            if not self._answers:
                return None
            own = library_parts.spec(name)
            return own or importlib.util.spec_from_loader(name, _Made(stand_ins.make(name)), is_package=True)
        moved = old_names.moved(name)
        if moved is not None:
            return importlib.util.spec_from_loader(name, _Made(moved), is_package=True)
        if name == "keras" or old_names.changes(name):
            return self._watched(name, path, target)
        return None

    def arrived(self, name: str, module: ModuleType) -> None:
        """A module has been imported: put the old words in."""
        if name == "keras":
            idioms.install(module)
        if old_names.changes(name):
            old_names.install(name, module)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, Horovod's name means Horovod's own library."""
        standing = _take_horovod()
        sys.modules.update(self._library)
        self._answers = False
        try:
            yield
        finally:
            self._library = _take_horovod()
            sys.modules.update(standing)
            self._answers = True

    def _watched(self, name: str, path: Sequence[str] | None, target: Any) -> ModuleSpec | None:
        """The spec that the other finders have, which tells us when the module has run."""
        specs = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self and hasattr(f, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self.arrived(name, module)

        spec.loader.exec_module = exec_module
        return spec


class _Made(Loader):
    """Gives Python a module that is there already."""

    def __init__(self, module: ModuleType):
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def _take_horovod() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "horovod"]
    return {name: sys.modules.pop(name) for name in names}
