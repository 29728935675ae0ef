"""``hvdkit install-horovod``, step by step: look into the cache, build, install, check that it loads."""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hvdkit.errors import HorovodBuildError
from hvdkit.horovod_build import build, cache, failure, process, stamp, tools, verify
from hvdkit.horovod_build.progress import Reporter, duration
from hvdkit.horovod_build.recipe import BuildPlan

_INSTALL_SECONDS = 900.0


@dataclass(frozen=True)
class Outcome:
    """Where the build came from: ``"installed already"``, ``"from the cache"`` or ``"built"``."""

    origin: str
    loaded: verify.Loaded
    seconds: float


def install(plan: BuildPlan, report: Reporter, *, force: bool = False) -> Outcome:
    """Make the environment's Horovod the plan's.

    Args:
        force: build and install anew even where the same build is in the cache or installed.

    Raises:
        HorovodBuildError: it could not be built or installed, or what was installed does not load.
    """
    began = time.monotonic()
    key = plan.recipe.key()
    # Two calls in one environment would install over each other; in two environments they only share the
    # cache.
    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:16]
    with cache.lock(f"env-{environment}", report.line):
        installed_build = stamp.installed_horovod()
        if installed_build and installed_build.key == key and not force:
            with report.step("this very build is installed already; checking that it loads"):
                loaded = verify.load_in_subprocess()
            if loaded.error is None:
                return Outcome("installed already", loaded, time.monotonic() - began)
            report.line(f"  it does not: {loaded.error}; installing it again")
        with cache.lock(f"wheel-{key}", report.line):
            wheel = None if force else cache.wheel(key)
            origin = "from the cache" if wheel else "built"
            if wheel:
                report.line(f"found in the cache, nothing to compile: {wheel}")
            else:
                wheel = build.build(plan, report)
        with report.step("installing the wheel"):
            _pip_install(wheel, key)
        with report.step("checking that it loads"):
            loaded = verify.load_in_subprocess()
    if loaded.error:
        raise HorovodBuildError(
            f"Horovod was installed, but does not load: {loaded.error}.",
            fix="hvdkit doctor; to build it again: hvdkit install-horovod --force",
        )
    _check_promise(plan, loaded)
    return Outcome(origin, loaded, time.monotonic() - began)


def _pip_install(wheel: Path, key: str) -> None:
    log = cache.folder("logs") / f"{key}-install.log"
    log.write_text("", encoding="utf-8")
    # pip keeps an installed Horovod of the same version unless it is forced; its needs are not to be
    # reinstalled.
    for words in (("--force-reinstall", "--no-deps"), ()):
        argv = tools.pip("install", *words, str(wheel))
        code = process.run_logged(
            argv, environ=tools.environment(), cwd=wheel.parent, log=log, seconds=_INSTALL_SECONDS
        )
        if code:
            raise failure.error("Installing the wheel", log)


def _check_promise(plan: BuildPlan, loaded: verify.Loaded) -> None:
    promised = {"gloo": True, "mpi": plan.recipe.mpi is not None, "nccl": plan.recipe.nccl is not None}
    broken = [name for name, value in promised.items() if loaded.built.get(name) != value]
    if broken:
        raise HorovodBuildError(f"The built Horovod is not what was planned: {', '.join(broken)}. It has: {loaded}.")


def summary(outcome: Outcome, plan: BuildPlan) -> str:
    """The last line."""
    alone = f"\nNote: hvd.init() in a single process failed: {outcome.loaded.alone}" if outcome.loaded.alone else ""
    return (
        f"Horovod {plan.recipe.horovod} for TensorFlow {plan.recipe.tensorflow}: {outcome.origin}, "
        f"{duration(outcome.seconds)}. Built with {outcome.loaded}.{alone}"
    )
