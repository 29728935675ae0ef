"""Which launcher starts the ranks, with which words: decided here, from plain data, without touching the machine.

``Request`` is what the user asked for, ``Found`` what there is, and ``make_plan`` turns the two into a ``LaunchPlan``
that ``--dry-run`` prints and ``supervise`` carries out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hvdkit.errors import HorovodMissingError, HvdkitError, LaunchError, UsageError
from hvdkit.launch.env_allowlist import may_be_seen
from hvdkit.launch.hosts import Host
from hvdkit.utils.registry import Registry

LAUNCHERS = Registry(
    "launcher",
    {
        "horovodrun": "hvdkit.launch.horovodrun:Horovodrun",
        "mpirun": "hvdkit.launch.mpirun:Mpirun",
    },
)

# What the ranks themselves need from `hvdkit run`; every launcher must carry these two to every host.
RUN_ID, RUN_DIR = "HVDKIT_RUN_ID", "HVDKIT_RUN_DIR"


@dataclass(frozen=True)
class Tool:
    """An executable that was found; ``flavour`` and ``version`` where they matter (an MPI)."""

    path: str
    flavour: str = ""
    version: tuple[int, ...] = ()


@dataclass(frozen=True)
class HorovodBuild:
    """Which controllers the installed Horovod was built with."""

    gloo: bool
    mpi: bool


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Args:
        program: the words that follow ``python``: ``("train.py", "--lr", "0.1")`` or ``("-m", "package.module")``.
        np: the number of ranks; None for as many as the hosts have slots.
        launcher: a name in ``LAUNCHERS`` or ``"auto"``.
        hosts: the hosts; empty for this host (or the batch system's allocation, where the launcher reads it).
        interfaces: the network interfaces to use, e.g. ``("eth0",)``.
        forward: ``-x``: names of variables, or ``NAME=VALUE``, that must reach every rank.
    """

    program: tuple[str, ...]
    np: int | None = None
    launcher: str = "auto"
    hosts: tuple[Host, ...] = ()
    interfaces: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What there is on this machine; see ``hvdkit.launch.found.look``."""

    python: str
    tools: Mapping[str, Tool]
    horovod: HorovodBuild | None
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
        tagged: whether the launcher writes ``[rank]<stdout>:`` before every line of a rank.
    """

    launcher: str
    why: str
    argv: tuple[str, ...]
    np: int
    env: Mapping[str, str] = field(default_factory=dict)
    private: tuple[str, ...] = ()
    hosts: tuple[Host, ...] = ()
    tagged: bool = False

    def __str__(self) -> str:
        """What ``--dry-run`` prints."""
        where = ", ".join(map(str, self.hosts)) or "this host"
        lines = [
            f"launcher:  {self.launcher}: {self.why}",
            f"ranks:     {self.np} on {where}",
            f"command:   {shlex.join(self.argv)}",
        ]
        shown = {name: value if may_be_seen(name, value) else "(hidden)" for name, value in self.env.items()}
        lines += [f"add:       {name}={shlex.quote(value)}" for name, value in sorted(shown.items())]
        if self.private:
            lines.append(f"by file:   {', '.join(self.private)} (kept off the command line)")
        return "\n".join(lines)


class Launcher(Protocol):
    """One way to start ranks: one file, one line in ``LAUNCHERS``."""

    def problem(self, request: Request, found: Found) -> HvdkitError | None:
        """Why this launcher cannot do it, with the way out; None where it can."""

    def plan(self, request: Request, found: Found, env: dict[str, str], why: str) -> LaunchPlan:
        """The launch; ``request.np`` is settled and ``env`` holds the variables to add."""


def make_plan(request: Request, found: Found) -> LaunchPlan:
    """The launch that answers a request with what there is.

    Raises:
        UsageError: the request does not fit itself or this machine.
        HorovodMissingError: this Python has no Horovod.
        LaunchError: no launcher can do it, or not the one that was asked for.

    Example:

    >>> found = Found("/env/bin/python", {"horovodrun": Tool("/env/bin/horovodrun")}, HorovodBuild(True, False))
    >>> make_plan(Request(("train.py",), np=2), found).why
    'Horovod was built with Gloo, which needs no MPI'
    """
    if request.launcher != "auto":
        LAUNCHERS.resolve(request.launcher)  # a misspelt name is the first thing to say
    _check_hosts(request, found)
    settled = Request(**{**vars(request), "np": _ranks(request)})
    if found.horovod is None:
        raise HorovodMissingError("Horovod is not installed in this Python.", fix="hvdkit install-horovod")
    name, why = _choose(settled, found)
    return LAUNCHERS.resolve(name)().plan(settled, found, _additions(settled, found), why)


def worker(request: Request, found: Found) -> tuple[str, ...]:
    """What the launcher starts once per rank: the small parent of the real program."""
    return (found.python, "-m", "hvdkit.launch.worker", *request.program)


def _check_hosts(request: Request, found: Found) -> None:
    if found.unknown_hosts:
        names = ", ".join(found.unknown_hosts)
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


def _choose(request: Request, found: Found) -> tuple[str, str]:
    if request.launcher != "auto":
        problem = LAUNCHERS.resolve(request.launcher)().problem(request, found)
        if problem:
            raise problem
        return request.launcher, "it was asked for"
    problems = {name: LAUNCHERS.resolve(name)().problem(request, found) for name in LAUNCHERS.names()}
    if found.allocated_nodes > 1 and not request.hosts and not problems["mpirun"]:
        return "mpirun", f"it reads the batch system's allocation of {found.allocated_nodes} hosts"
    if not problems["horovodrun"]:
        return "horovodrun", "Horovod was built with Gloo, which needs no MPI"
    if not problems["mpirun"]:
        return "mpirun", "Horovod was built with MPI, and horovodrun cannot be used"
    for name, problem in problems.items():
        if problem is None:
            return name, "no other launcher can be used"
    reasons = " ".join(f"{name}: {problem.what}" for name, problem in problems.items())
    raise LaunchError(f"No launcher can start the ranks. {reasons}", fix=problems["horovodrun"].fix)


def _additions(request: Request, found: Found) -> dict[str, str]:
    """The variables to add: what keeps a rank's output prompt and its crashes legible, and what -x sets."""
    env = {name: "1" for name in ("PYTHONUNBUFFERED", "PYTHONFAULTHANDLER") if name not in found.environ}
    for item in request.forward:
        name, given, value = item.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"-x {item}: {name!r} is not the name of a variable.", fix="-x NAME or -x NAME=VALUE")
        if given:
            env[name] = value
        elif name not in found.environ:
            raise UsageError(f"-x {name}: the variable is not set.", fix=f"export {name}=..., or -x {name}=VALUE")
    return env
