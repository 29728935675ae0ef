"""Python, TensorFlow, Keras, and whether the versions of everything fit together."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions, version
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.version import Version

from hvdkit.doctor.finding import Finding
from hvdkit.horovod_build import framework
from hvdkit.utils import env
from hvdkit.utils.tested_versions import KERAS, TENSORFLOW

if TYPE_CHECKING:
    from hvdkit.doctor import Context


def python(context: Context) -> Iterator[Finding]:
    """3.11 to 3.13."""
    number = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "ok", f"{number} ({sys.executable})")
    else:
        yield Finding("python", "fail", f"{number} ({sys.executable})", "use Python 3.11 to 3.13")


def tensorflow(context: Context) -> Iterator[Finding]:
    """Installed, in the range, and it loads."""
    package = framework.installed_tensorflow()
    if package is None:
        yield Finding("tensorflow", "fail", "not installed", TENSORFLOW.install)
        return
    what = f"{package.version}, {'CUDA ' + package.cuda if package.cuda else 'CPU'} build ({package.distribution})"
    error = context.probe.error("tensorflow")
    minor = Version(package.minor)
    if not context.probe.reached("tensorflow"):
        untried = f"{what}; a process could not be started to try it: {context.probe.end}"
        yield Finding("tensorflow", "fail", untried, "see it fail: python -c 'import tensorflow'")
    elif error:
        again = f"pip install --force-reinstall {package.distribution}=={package.version}"
        yield Finding("tensorflow", "fail", f"{what}; it does not load: {error}", again)
    elif TENSORFLOW.is_older(minor):
        yield Finding("tensorflow", "fail", f"{what}; too old for Keras 3", TENSORFLOW.install)
    elif TENSORFLOW.is_newer(minor):
        newest = f"hvdkit was tried up to {TENSORFLOW.newest}"
        yield Finding("tensorflow", "warn", f"{what}; {newest}", f"if something fails: {TENSORFLOW.install}")
    else:
        yield Finding("tensorflow", "ok", what)


def keras(context: Context) -> Iterator[Finding]:
    """Keras 3 with the TensorFlow backend."""
    try:
        number = version("keras")
    except PackageNotFoundError:
        yield Finding("keras", "fail", "not installed", KERAS.install)
        return
    if KERAS.is_older(Version(number)):
        old = f"{number}; hvdkit needs {KERAS.oldest}"
        yield Finding("keras", "fail", old, KERAS.install)
        return
    backend, source = _backend()
    error = context.probe.error("keras")
    if backend != "tensorflow":
        back = f"{number} with the backend {backend!r} ({source}); hvdkit trains with tensorflow only"
        yield Finding("keras", "fail", back, "export KERAS_BACKEND=tensorflow")
    elif error and not context.probe.error("tensorflow"):
        yield Finding("keras", "fail", f"{number} does not load: {error}", "pip install --force-reinstall keras")
    elif KERAS.is_newer(Version(number)):
        newer = f"{number}; hvdkit was tried up to {KERAS.newest}"
        yield Finding("keras", "warn", newer, f"if something fails: {KERAS.install}")
    else:
        yield Finding("keras", "ok", f"{number}, backend tensorflow ({source})")
    if (env.get("TF_USE_LEGACY_KERAS") or "0").lower() in ("1", "true"):
        legacy = "TF_USE_LEGACY_KERAS is set: tf.keras is Keras 2, which hvdkit does not train"
        yield Finding("legacy keras", "fail", legacy, "unset TF_USE_LEGACY_KERAS")


def requirements(context: Context) -> Iterator[Finding]:
    """Whether the installed versions are those TensorFlow, Keras, Horovod and hvdkit ask for."""
    package = framework.installed_tensorflow()
    names = [
        *([package.distribution] if package else []),
        *filter(_is_there, ("keras", "horovod", "hvdkit")),
    ]
    misfits = [misfit for name in names for misfit in _misfits(name)]
    for detail, wanted in misfits:
        yield Finding("requirements", "warn", detail, f"pip install '{wanted}'")
    if not misfits:
        yield Finding("requirements", "ok", f"what {', '.join(names)} ask for is installed")


def _is_there(name: str) -> bool:
    return next(distributions(name=name), None) is not None


def _backend() -> tuple[str, str]:
    """Keras' backend and who says so, in Keras' own order."""
    named = env.get("KERAS_BACKEND")
    if named:
        return named, "KERAS_BACKEND"
    file = Path(env.get("KERAS_HOME") or Path.home() / ".keras", "keras.json")
    try:
        backend = json.loads(file.read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError):
        backend = None
    return (backend, str(file)) if backend else ("tensorflow", "the default")


def _misfits(name: str) -> Iterator[tuple[str, str]]:
    try:
        wanted = distribution(name).requires or ()
    except PackageNotFoundError:
        return
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        # the legacy "name (>=1)" and extras do not matter here: the name and the versions do
        plain = f"{re.sub(r'[-_.]+', '-', requirement.name).lower()}{requirement.specifier}"
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield f"{name} asks for {plain}, which is not installed", plain
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield f"{name} asks for {plain}; {installed} is installed", plain
