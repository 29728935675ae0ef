"""Which launcher starts the ranks, with which words: decided here, from plain data, without touching the machine.

``Request`` is what the user asked for, ``SystemInfo`` what there is, and ``make_plan`` turns the two into a
``LaunchPlan`` that ``--dry-run`` prints and ``supervise`` carries out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hvdkit.engines import ENGINES, info, refusal, usable
from hvdkit.errors import HvdkitError, LaunchError, UsageError
from hvdkit.launch.env_allowlist import may_be_seen
from hvdkit.launch.hosts import Host
from hvdkit.launch.launcher import LAUNCHERS, Tool, launcher, starters

# What the ranks themselves need from `hvdkit run`; every launcher must carry these two to every host.
RUN_ID, RUN_DIR = "HVDKIT_RUN_ID", "HVDKIT_RUN_DIR"
# What tells the ranks which engine was asked for: see ``hvd.init``.
ENGINE = "HVDKIT_ENGINE"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        program: the words that follow ``python``: ``("train.py", "--lr", "0.1")`` or ``("-m", "package.module")``.
        np: the number of ranks; None for as many as the hosts have slots.
        launcher: a name in ``LAUNCHERS`` or ``"auto"``.
        engine: a name in ``ENGINES`` or ``"auto"``; None for what ``HVDKIT_ENGINE`` says.
        hosts: the hosts; empty for this host (or the batch system's allocation, where the launcher reads it).
        interfaces: the network interfaces to use, e.g. ``("eth0",)``.
        forward: ``-x``: names of variables, or ``NAME=VALUE``, that must reach every rank.
        environ: variables to set for the ranks besides; no command line has shown their values.
    """

    program: tuple[str, ...]
    np: int | None = None
    launcher: str = "auto"
    engine: str | None = None
    hosts: tuple[Host, ...] = ()
    interfaces: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SystemInfo:
    """What there is on this machine; see ``hvdkit.launch.discovery.detect``.

    Args:
        python: the Python that the ranks run.
        tools: the launchers' executables, by the launcher's name.
        engines: what is installed of each engine, as ``hvdkit.engines.installed`` returns it.
        environ: the environment.
        root: whether this user is root.
        cores: the cores that this process may use.
        allocated_nodes: how many hosts the batch system has given.
        unknown_hosts: those of the request that have no address.
    """

    python: str
    tools: Mapping[str, Tool]
    engines: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    root: bool = False
    cores: int = 1
    allocated_nodes: int = 1
    unknown_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class LaunchPlan:
    """One launch as pure data.

    Args:
        launcher: its name.
        why: why this launcher, in one sentence.
        argv: the command, word by word; no shell reads it.
        env: the variables that are added to the environment.
        private: names of variables that reach the ranks by a private file, because this launcher would put them on a
            command line.
        np: the number of ranks.
        hosts: the hosts, empty for this one.
        engine: what moves the bytes between the ranks; ``"auto"`` where the ranks themselves choose.
        tagged: whether the launcher writes ``[rank]<stdout>:`` before every line of a rank.
        passes_on_sigusr1: whether the launcher passes SIGUSR1 on to its ranks and lives on.
    """

    launcher: str
    why: str
    argv: tuple[str, ...]
    np: int
    env: Mapping[str, str] = field(default_factory=dict)
    private: tuple[str, ...] = ()
    hosts: tuple[Host, ...] = ()
    engine: str = "auto"
    tagged: bool = False
    passes_on_sigusr1: bool = False

    def __str__(self) -> str:
        """What ``--dry-run`` prints."""
        where = ", ".join(map(str, self.hosts)) or "this host"
        lines = [
            f"launcher:  {self.launcher}: {self.why}",
            f"engine:    {self.engine}" + (": each rank sees what is there" if self.engine == "auto" else ""),
            f"ranks:     {self.np} on {where}",
            f"command:   {shlex.join(self.argv)}",
        ]
        shown = {name: value if may_be_seen(name, value) else "(hidden)" for name, value in self.env.items()}
        lines += [f"add:       {name}={shlex.quote(value)}" for name, value in sorted(shown.items())]
        if self.private:
            lines.append(f"by file:   {', '.join(self.private)} (kept off the command line)")
        return "\n".join(lines)


def make_plan(request: Request, system: SystemInfo) -> LaunchPlan:
    """The launch that answers a request with what there is.

    Raises:
        UsageError: the request does not fit itself or this machine.
        HorovodMissingError: Horovod was asked for, and this Python has none.
        LaunchError: no launcher can do it, or not the one that was asked for.

    Example:

    >>> system = SystemInfo("/env/bin/python", {"mpirun": Tool("/env/bin/mpirun")}, {"mpi": "4.1.2"})
    >>> plan = make_plan(Request(("train.py",), np=2), system)
    >>> plan.launcher, plan.engine, plan.why
    ('mpirun', 'mpi', 'mpi4py is installed, and its engine needs no Horovod')
    """
    _check_hosts(request, system)
    settled = replace(request, np=_ranks(request), engine=_engine(request, system))
    for name, registry in ((settled.launcher, LAUNCHERS), (settled.engine, ENGINES)):
        registry.check(name, ["auto", *registry.names()])
    env = _additions(settled, system)
    if request.engine is not None:
        env[ENGINE] = request.engine
    name, why = _choose_launcher(settled, system)
    choice = usable(_engines(settled), launcher(name).rendezvous, system.engines)
    plan = launcher(name).plan(settled, system, env, why)
    return replace(plan, engine=choice[0] if len(choice) == 1 else "auto")


def worker(request: Request, system: SystemInfo) -> tuple[str, ...]:
    """What the launcher starts once per rank: the small parent of the real program."""
    return (system.python, "-m", "hvdkit.launch.worker", *request.program)


def _check_hosts(request: Request, system: SystemInfo) -> None:
    if system.unknown_hosts:
        names = ", ".join(system.unknown_hosts)
        raise UsageError(f"Unknown host: {names}.", fix="check the name, /etc/hosts and the DNS: getent hosts NAME")
    slots = sum(host.slots for host in request.hosts)
    if request.hosts and request.np is not None and request.np > slots:
        listed = ", ".join(map(str, request.hosts))
        raise UsageError(
            f"-np {request.np} is more than the {slots} slots of the hosts ({listed}).",
            fix=f"-np {slots}, or more slots: host:SLOTS",
        )


def _ranks(request: Request) -> int:
    if request.np is None and not request.hosts:
        raise UsageError("How many ranks?", fix="hvdkit run -np 2 ...")
    ranks = sum(host.slots for host in request.hosts) if request.np is None else request.np
    if ranks < 1:
        raise UsageError(f"-np must be at least 1. Received: {ranks}.", fix="hvdkit run -np 2 ...")
    return ranks


def _engine(request: Request, system: SystemInfo) -> str:
    """The engine that was asked for, by itself or by the variable that the ranks will see."""
    forwarded = [item.partition("=")[2] for item in request.forward if item.startswith(f"{ENGINE}=")]
    said = request.environ.get(ENGINE, (forwarded or [system.environ.get(ENGINE, "")])[-1])
    return request.engine or said.strip() or "auto"


def _engines(request: Request) -> list[str]:
    return ENGINES.names() if request.engine == "auto" else [request.engine]


def _choose_launcher(request: Request, system: SystemInfo) -> tuple[str, str]:
    """A launcher, and why it."""
    if request.launcher != "auto":
        problem = _problem(request.launcher, request, system)
        if problem:
            raise problem
        return request.launcher, "it was asked for"
    problems = {name: _problem(name, request, system) for name in starters()}
    able = [name for name, problem in problems.items() if problem is None]
    if not able:
        reasons = " ".join(f"{name}: {problem.what}" for name, problem in problems.items())
        fixes = dict.fromkeys(problem.fix for problem in problems.values())
        raise LaunchError(f"No launcher can start the ranks. {reasons}", fix="; or ".join(filter(None, fixes)))
    reading = [name for name in able if launcher(name).reads_allocation]
    if system.allocated_nodes > 1 and not request.hosts and reading:
        return reading[0], f"it reads the batch system's allocation of {system.allocated_nodes} hosts"
    rendezvous = launcher(able[0]).rendezvous
    return able[0], info(usable(_engines(request), rendezvous, system.engines)[0]).why(rendezvous)


def _problem(name: str, request: Request, system: SystemInfo) -> HvdkitError | None:
    """Why a launcher cannot do it, or why no engine could work among its ranks."""
    problem = launcher(name).problem(request, system)
    if problem:
        return problem
    rendezvous = launcher(name).rendezvous
    if usable(_engines(request), rendezvous, system.engines):
        return None
    return refusal(_engines(request), rendezvous, system.engines)


def _additions(request: Request, system: SystemInfo) -> dict[str, str]:
    """The variables to add: what keeps a rank's output prompt and its crashes legible, what -x sets, and the rest."""
    env = {name: "1" for name in ("PYTHONUNBUFFERED", "PYTHONFAULTHANDLER") if name not in system.environ}
    for item in request.forward:
        name, given, value = item.partition("=")
        if not _NAME.fullmatch(name):
            raise UsageError(f"-x {item}: {name!r} is not the name of a variable.", fix="-x NAME or -x NAME=VALUE")
        if given:
            env[name] = value
        elif name not in system.environ:
            raise UsageError(f"-x {name}: the variable is not set.", fix=f"export {name}=..., or -x {name}=VALUE")
    for name in request.environ:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"environ: {name!r} is not the name of a variable.", fix="use letters, digits and underscores"
            )
    return env | {name: str(value) for name, value in request.environ.items()}
