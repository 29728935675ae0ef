"""What a launcher is, and which there are: one file per launcher, one line in ``LAUNCHERS``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from hvdkit.errors import HvdkitError
from hvdkit.utils import programs
from hvdkit.utils.registry import Registry

if TYPE_CHECKING:
    from hvdkit.launch.plan import LaunchPlan, Request, SystemInfo

#: In the order in which their variables are believed, and in which ``launcher="auto"`` tries them: Horovod's own
#: launcher knows best, then MPI, then Slurm.
LAUNCHERS = Registry(
    "launcher",
    {
        "horovodrun": "hvdkit.launch.horovodrun:Horovodrun",
        "mpirun": "hvdkit.launch.mpirun:Mpirun",
        "srun": "hvdkit.launch.srun:Srun",
    },
)


@dataclass(frozen=True)
class Tool:
    """An executable that was found; ``flavour`` and ``version`` where they matter (an MPI)."""

    path: str
    flavour: str = ""
    version: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.flavour, self.version, f"({self.path})")))


class RankVariables(NamedTuple):
    """The variables by which a launcher tells a process its place; "" where it has none for it."""

    rank: str
    size: str
    local_rank: str = ""
    local_size: str = ""
    cross_rank: str = ""
    cross_size: str = ""


class Launcher:
    """One way to start ranks. What stands here is what holds for a launcher that says nothing of itself."""

    program: ClassVar[str] = ""
    """Its executable."""
    rendezvous: ClassVar[str] = ""
    """How its ranks find each other, as ``hvdkit.engines.EngineInfo.ways`` names it."""
    variables: ClassVar[tuple[RankVariables, ...]] = ()
    """What a rank knows it by; the first of these that is set."""
    own_prefixes: ClassVar[tuple[str, ...]] = ()
    """How the names of the variables begin that it sets for each rank anew."""
    starts_ranks: ClassVar[bool] = True
    """Whether ``hvdkit run`` can use it; of others hvdkit only knows the ranks."""
    reads_allocation: ClassVar[bool] = False
    """Whether it knows the batch system's hosts by itself."""
    reads_utf8_only: ClassVar[bool] = False
    """Whether it cannot pass on what a rank writes that is not UTF-8."""
    gives_terminal: ClassVar[bool] = True
    """Whether rank 0 may write to what the launcher gave it, which can be a terminal."""
    leaves_sessions: ClassVar[tuple[str, ...]] = ()
    """The names of its processes that leave something behind when they are killed: see ``remove_session``."""

    def tool(self) -> Tool | None:
        """Its executable on this machine."""
        path = programs.find(self.program)
        return Tool(path) if path else None

    def problem(self, request: Request, system: SystemInfo) -> HvdkitError | None:
        """Why this launcher cannot do it, with the way out; None where it can. The engine is not its matter."""

    def plan(self, request: Request, system: SystemInfo, env: dict[str, str], why: str) -> LaunchPlan:
        """The launch; ``request.np`` is settled and ``env`` holds the variables to add."""
        raise NotImplementedError

    def remove_session(self, pid: int, environ: Mapping[str, str]) -> None:
        """Remove what a process of it has left behind that was killed, and is gone."""


def launcher(name: str) -> Launcher:
    """The launcher with this name; one that has nothing of its own for ``"none"`` and for names that are not known.

    Example:

    >>> launcher("mpirun").program, launcher("none").program
    ('mpirun', '')
    """
    return LAUNCHERS.resolve(name)() if name in LAUNCHERS.names() else Launcher()


def starters() -> list[str]:
    """The names of the launchers that ``hvdkit run`` can use.

    Example:

    >>> starters()
    ['horovodrun', 'mpirun']
    """
    return [name for name in LAUNCHERS.names() if launcher(name).starts_ranks]
