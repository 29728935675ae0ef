"""Which TensorFlow is installed, from its metadata: importing it takes seconds and may be what is broken."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

from packaging.version import InvalidVersion, Version

# Each of these distributions holds the package `tensorflow`; in the order in which they are believed, since
# `tensorflow` is an empty shell around `tensorflow-intel` or `tensorflow-macos` on some systems.
_NAMES = (
    "tensorflow-intel",
    "tensorflow-macos",
    "tensorflow-rocm",
    "tensorflow-cpu-aws",
    "intel-tensorflow",
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-gpu",
    "tf-nightly",
    "tf-nightly-cpu",
)


@dataclass(frozen=True)
class TensorFlow:
    """An installed TensorFlow.

    ``cuda`` is the CUDA version it was compiled for (``"12.5.1"``), None for a CPU build.
    """

    distribution: str
    version: str
    folder: Path | None = None
    cuda: str | None = None

    @property
    def minor(self) -> str:
        """``"2.21"`` of ``"2.21.0"``: what its C++ interface goes with."""
        return minor(self.version)


def minor(version: str) -> str:
    """The first two parts of a version.

    >>> minor("2.21.0rc1")
    '2.21'
    """
    try:
        return "{}.{}".format(*(*Version(version).release, 0)[:2])
    except InvalidVersion:
        return ".".join(version.split(".")[:2])


def installed_tensorflow(path: Sequence[str] | None = None) -> TensorFlow | None:
    """The TensorFlow of this Python, or None.

    Args:
        path: folders to look in, in the place of ``sys.path``.
    """
    distribution = _distribution(path)
    if distribution is None:
        return None
    folder = package_folder("tensorflow", path)
    name = distribution.metadata["Name"].replace("_", "-")
    return TensorFlow(name, distribution.version, folder, _cuda(folder))


def package_folder(package: str, path: Sequence[str] | None = None) -> Path | None:
    """The folder of a package, which is not imported; None if it is not installed."""
    try:
        if path is None:
            spec = importlib.util.find_spec(package)
        else:
            spec = PathFinder.find_spec(package, list(path))
    except (ImportError, ValueError):
        return None
    # A folder of that name without an __init__.py (a stray one in the working directory) has no origin.
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _distribution(path: Sequence[str] | None) -> Distribution | None:
    where = {} if path is None else {"path": list(path)}
    for name in _NAMES:
        for distribution in distributions(name=name, **where):
            return distribution
    if path is None and package_folder("tensorflow"):  # a vendor's build under a name of its own
        for name in packages_distributions().get("tensorflow", ()):
            return next(iter(distributions(name=name)), None)
    return None


def _cuda(folder: Path | None) -> str | None:
    """The CUDA version in TensorFlow's own record of its build: a Python file, read as text."""
    if folder is None:
        return None
    try:
        text = (folder / "python/platform/build_info.py").read_text(encoding="utf-8")
    except OSError:
        return None
    if not re.search(r"'is_cuda_build', True", text):
        return None
    version = re.search(r"'cuda_version', '([\d.]+)'", text)
    return version.group(1) if version else "unknown"
