"""The build tools, in a private folder of the cache: Horovod needs an older setuptools and CMake than today's.

Nothing of them is installed into the user's environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hvdkit.horovod_build import cache, failure, process
from hvdkit.utils import env

# Horovod's setup.py asks for cloudpickle and the like before it builds, and would fetch eggs for what is
# missing.
_TOOLS = ("setuptools>=65,<81", "wheel", "cmake>=3.22,<4", "packaging", "cloudpickle", "psutil", "pyyaml")
_SECONDS = 1200.0
# Variables of other builds, and of the ranks' launcher: under them pip or Horovod's build would do something
# else.
_FOREIGN = ("HOROVOD_", "CMAKE_", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")


def pip(*words: str) -> list[str]:
    """This Python's pip as an argv; it asks nothing and does not praise its newest version."""
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words]


def environment(tools: Path | None = None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The build's environment: the user's without other builds' settings, with the tools before everything."""
    environ = {name: value for name, value in env.child().items() if not name.startswith(_FOREIGN)}
    if tools:
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(tools), environ.get("PYTHONPATH"))))
        environ["PATH"] = os.pathsep.join((str(tools / "bin"), environ.get("PATH", os.defpath)))
        environ["HOROVOD_CMAKE"] = str(_cmake(tools))
    return {**environ, **(extra or {})}


def ready(ninja: bool, log: Path) -> Path:
    """The folder of the tools, filled on the first call.

    Args:
        ninja: whether ninja is needed, in the place of make.
    """
    names = (*_TOOLS, *(("ninja",) if ninja else ()))
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}"
    folder = cache.folder("tools") / f"{tag}-{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}"
    with cache.lock(folder.name):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as new:
            target = Path(new, "tools")
            argv = pip("install", "--no-deps", "--only-binary", "cmake,ninja", "--target", str(target), *names)
            if process.run_logged(argv, environ=environment(), cwd=folder.parent, log=log, seconds=_SECONDS):
                raise failure.error("Fetching the build tools", log)
            target.rename(folder)
    return folder


def _cmake(tools: Path) -> Path:
    """CMake's program itself: the script beside it names the Python that fetched it, maybe a deleted one."""
    program = tools / "cmake/data/bin/cmake"
    return program if program.is_file() else Path(shutil.which("cmake", path=str(tools / "bin")) or "cmake")
