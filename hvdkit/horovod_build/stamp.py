"""What the installed Horovod was built for, without importing it: a wrong build may crash on import.

A Horovod built by ``hvdkit install-horovod`` carries ``horovod/hvdkit_build.json``; any other one carries
Horovod's own ``horovod/metadata.json``, which knows TensorFlow's version and no more.
"""

from __future__ import annotations

import json
import mmap
import re
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from hvdkit.horovod_build import framework

#: The stamp's place inside the package.
NAME = "hvdkit_build.json"


@dataclass(frozen=True)
class Stamp:
    """An installed Horovod and what it was built for.

    ``key`` and ``parts`` (the cache key's parts, see ``recipe.Recipe``) are None and empty where it was not
    built by hvdkit; ``tensorflow`` is None where it was built without TensorFlow.
    """

    horovod: str
    folder: Path
    tensorflow: str | None
    key: str | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_hvdkit(self) -> bool:
        """Whether ``hvdkit install-horovod`` built it."""
        return self.key is not None


def installed_horovod(path: Sequence[str] | None = None) -> Stamp | None:
    """The installed Horovod, or None. Imports neither it nor TensorFlow.

    Args:
        path: folders to look in, in the place of ``sys.path``.

    Example:

    >>> installed_horovod(["/nowhere"]) is None
    True
    """
    folder = framework.package_folder("horovod", path)
    if folder is None:
        return None
    own_stamp = _read(folder / NAME)
    version = _version(folder, path)
    if isinstance(own_stamp.get("key"), str) and isinstance(own_stamp.get("parts"), dict):
        return Stamp(version, folder, own_stamp["parts"].get("tensorflow"), own_stamp["key"], own_stamp["parts"])
    return Stamp(version, folder, _read(folder / "metadata.json").get("tensorflow"))


def compatibility_problem(path: Sequence[str] | None = None) -> str | None:
    """One sentence if the installed Horovod does not fit this Python and its TensorFlow, else None.

    None also where Horovod or TensorFlow is not installed at all: that is another message.

    Args:
        path: folders to look in, in the place of ``sys.path``.
    """
    stamp, tensorflow = installed_horovod(path), framework.installed_tensorflow(path)
    if stamp is None or tensorflow is None:
        return None
    who = f"Horovod {stamp.horovod} ({stamp.folder})"
    if stamp.tensorflow is None:
        return f"{who} was built without TensorFlow."
    # TensorFlow keeps its C++ interface within a minor version only.
    if framework.minor(stamp.tensorflow) != tensorflow.minor:
        return f"{who} was built for TensorFlow {stamp.tensorflow}, but {tensorflow.version} is installed."
    if stamp.parts.get("nccl") and not tensorflow.cuda:
        return f"{who} was built with NCCL, but {tensorflow.distribution} {tensorflow.version} is a CPU build."
    if not library(stamp.folder).is_file():
        others = sorted(file.name for file in (stamp.folder / "tensorflow").glob("mpi_lib*"))
        return f"{who} has no library for this Python ({library(stamp.folder).name}); it has {others or 'none'}."
    return None


def controllers(path: Sequence[str] | None = None) -> tuple[bool, bool] | None:
    """Whether the installed Horovod was built with Gloo, and with MPI; None without Horovod or without its library.

    It is read off the library, which is not loaded: that would take seconds.

    Args:
        path: folders to look in, in the place of ``sys.path``.
    """
    folder = framework.package_folder("horovod", path)
    for library_file in folder.glob("tensorflow/mpi_lib*.so") if folder else ():
        with library_file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b"GlooController") >= 0, data.find(b"MPIController") >= 0
    return None


def library(folder: Path) -> Path:
    """Horovod's library for this Python, where it should lie inside the package ``folder``."""
    return folder / "tensorflow" / f"mpi_lib{sysconfig.get_config_var('EXT_SUFFIX') or '.so'}"


def _version(folder: Path, path: Sequence[str] | None) -> str:
    where = {} if path is None else {"path": list(path)}
    for distribution in distributions(name="horovod", **where):
        return distribution.version
    try:  # a source tree on PYTHONPATH has no metadata
        text = (folder / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        text = ""
    version = re.search(r"__version__ = ['\"]([^'\"]+)", text)
    return version.group(1) if version else "unknown"


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
