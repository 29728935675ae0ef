"""Parts of the installed Horovod that are Python alone and move no gradients: they are run as they are.

They start threads, sockets and TensorFlow's data service. What they import from ``horovod.tensorflow`` is hvdkit's.
"""

from __future__ import annotations

import functools
import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PARTS = ("horovod.runner.common", "horovod.runner.util", "horovod.tensorflow.data")


def library_spec(name: str) -> ModuleSpec | None:
    """How to load a module of Horovod itself; None if it is in none of these parts, or Horovod is not installed."""
    folder = _library_folder()
    if folder is None or not any(name == part or name.startswith(f"{part}.") for part in PARTS):
        return None
    path = folder.joinpath(*name.split(".")[1:])
    if path.is_dir():
        return importlib.util.spec_from_file_location(
            name, path / "__init__.py", submodule_search_locations=[str(path)]
        )
    path = path.with_suffix(".py")
    return importlib.util.spec_from_file_location(name, path) if path.is_file() else None


@functools.cache
def _library_folder() -> Path | None:
    horovod = PathFinder.find_spec("horovod")
    return (
        None
        if horovod is None or not horovod.submodule_search_locations
        else Path(horovod.submodule_search_locations[0])
    )
