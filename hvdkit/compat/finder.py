"""Import hooks: ``horovod`` is answered by the shims, and Keras 3 gets the names of Keras 2.

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
from hvdkit.compat import keras2_patches, library_parts, renames, shims


def install_finder() -> None:
    """Answer imports from here on. Call it before the script's first line, once."""
    finder = Finder()
    sys.meta_path.insert(0, finder)
    horovod.real_horovod_modules = finder.real_horovod
    for name, module in list(sys.modules.items()):  # what was imported before
        if module is not None:
            finder.on_imported(name, module)


class Finder(MetaPathFinder):
    """The first that Python asks."""

    def __init__(self) -> None:
        self._answers = True
        self._library: dict[str, ModuleType] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] == "horovod":
            if not self._answers:
                return None
            library_spec = library_parts.library_spec(name)
            return library_spec or importlib.util.spec_from_loader(
                name, _ReadyModule(shims.make_shim(name)), is_package=True
            )
        moved_module = renames.moved_module(name)
        if moved_module is not None:
            return importlib.util.spec_from_loader(name, _ReadyModule(moved_module), is_package=True)
        if name == "keras" or renames.has_renames(name):
            return self._watched(name, path, target)
        return None

    def on_imported(self, name: str, module: ModuleType) -> None:
        """Patch a module that has been imported."""
        if name == "keras":
            keras2_patches.patch_keras(module)
        if renames.has_renames(name):
            renames.install_renames(name, module)

    @contextlib.contextmanager
    def real_horovod(self) -> Iterator[None]:
        """Within this context, ``import horovod`` imports the installed Horovod and not the shims."""
        shim_modules = _take_horovod()
        sys.modules.update(self._library)
        self._answers = False
        try:
            yield
        finally:
            self._library = _take_horovod()
            sys.modules.update(shim_modules)
            self._answers = True

    def _watched(self, name: str, path: Sequence[str] | None, target: Any) -> ModuleSpec | None:
        """The spec that the other finders have; ``on_imported`` is called as soon as the module has run."""
        specs = (f.find_spec(name, path, target) for f in sys.meta_path if f is not self and hasattr(f, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self.on_imported(name, module)

        spec.loader.exec_module = exec_module
        return spec


class _ReadyModule(Loader):
    """The loader of a module that exists already."""

    def __init__(self, module: ModuleType):
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def _take_horovod() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "horovod"]
    return {name: sys.modules.pop(name) for name in names}
