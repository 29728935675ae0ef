"""Which engines there are, and what is known of each without loading it: one file per engine, one line in ``ENGINES``.

An engine moves the bytes between the ranks. The engine itself (``hvdkit.comm``) is loaded in a rank only; what is here
costs no TensorFlow, so that launching, ``hvdkit doctor`` and a configuration can ask before any rank starts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from hvdkit.errors import HvdkitError, LaunchError, UsageError
from hvdkit.utils.registry import Registry

#: In the order in which ``engine="auto"`` tries them.
ENGINES = Registry(
    "engine",
    {
        "mpi": "hvdkit.engines.mpi:Mpi",
        "horovod": "hvdkit.engines.horovod:Horovod",
    },
)


class EngineInfo:
    """What is known of an engine without loading it."""

    name: ClassVar[str]
    """Its name in ``ENGINES``."""
    target: ClassVar[str]
    """Where the engine itself is: a ``"module:Class"`` that is a ``hvdkit.comm.engine.Engine``."""
    library: ClassVar[str]
    """What moves the bytes, as people know it."""
    install: ClassVar[str]
    """The command that installs it."""
    ways: ClassVar[Mapping[str, str]]
    """The ``Launcher.rendezvous`` it can use, each with the name of that way in ``hvdkit bench``."""
    algorithms: ClassVar[tuple[str, ...]] = ()
    """The all-reduce algorithms that it can be asked for, besides "auto"."""
    graph_operation: ClassVar[str] = ""
    """How the operations of a TensorFlow graph begin that its collectives are, where it has operations of its own."""
    graph_name: ClassVar[str] = ""
    """How the names of those operations begin, where it has not."""
    peer_lost: ClassVar[tuple[str, ...]] = ()
    """What it says in a rank whose peers are gone, as regular expressions."""
    peer_lost_error: ClassVar[str] = ""
    """What its own exception there says, or is called, where it has one: plain words."""
    alone_fix: ClassVar[str] = "`hvdkit doctor` says what does not fit."
    """What to do where each rank finds itself alone."""

    def installed(self) -> Any:
        """What is installed of it, in any form that ``problem`` understands; None where nothing is."""

    def problem(self, rendezvous: str, installed: Any) -> HvdkitError | None:
        """Why ranks that find each other in this way cannot use it; None where they can.

        Args:
            rendezvous: the ``rendezvous`` of the launcher.
            installed: what ``installed`` has returned.
        """
        if installed is None:
            return LaunchError(f"{self.library} is not installed in this Python.", fix=self.install)
        return None if rendezvous in self.ways else self.cannot_meet()

    def cannot_meet(self) -> HvdkitError:
        """The error of ranks whose launcher does not suit it."""
        able = " or ".join(sorted(self.ways))
        return LaunchError(f"The engine {self.name!r} needs ranks that were started over {able}.", fix=self.alone_fix)

    def why(self, rendezvous: str) -> str:
        """Why ranks can use it, in a few words for the plan of a launch."""
        return f"{self.library} is installed"


def info(name: str) -> EngineInfo:
    """What is known of the engine with this name.

    Raises:
        UsageError: no such engine; the nearest name is suggested.

    Example:

    >>> info("mpi").library
    'mpi4py'
    """
    return ENGINES.resolve(name)()


def check_algorithm(name: str, algorithm: str) -> None:
    """Refuse an all-reduce algorithm that an engine has not.

    Args:
        name: the engine's name.
        algorithm: "auto", or what ``algorithms`` lists.

    Raises:
        UsageError: it has no such algorithm; those it has are named.

    Example:

    >>> check_algorithm("mpi", "ring")
    """
    known = ("auto", *info(name).algorithms)
    if algorithm not in known:
        others = [other for other in ENGINES.names() if algorithm in info(other).algorithms]
        raise UsageError(
            f"The engine {name!r} has no all-reduce algorithm {algorithm!r}. It has: {', '.join(known)}.",
            fix=f"choose one of these{''.join(f', or the engine {other!r}' for other in others)}.",
        )


def installed() -> dict[str, Any]:
    """What is installed of each engine, by its name; None where nothing is."""
    return {name: info(name).installed() for name in ENGINES.names()}


def usable(names: Sequence[str], rendezvous: str, there: Mapping[str, Any]) -> list[str]:
    """Those of some engines that ranks with this rendezvous can use.

    Args:
        names: the engines' names.
        rendezvous: how the ranks find each other.
        there: what ``installed`` has returned.
    """
    return [name for name in names if info(name).problem(rendezvous, there.get(name)) is None]


def refusal(names: Sequence[str], rendezvous: str, there: Mapping[str, Any], rank: int | None = None) -> HvdkitError:
    """Why none of some engines is usable: of those that this rendezvous suits, or else of all.

    Args:
        names, rendezvous, there: as for ``usable``.
        rank: the rank that reports it.

    Example:

    >>> refusal(["mpi", "horovod"], "mpi", {}).fix
    "pip install 'hvdkit[mpi]', or hvdkit install-horovod --with mpi"
    """
    suited = [name for name in names if rendezvous in info(name).ways] or names
    problems = [problem for name in suited if (problem := info(name).problem(rendezvous, there.get(name)))]
    kind = type(problems[0]) if len(problems) == 1 else LaunchError
    fixes = dict.fromkeys(problem.fix for problem in problems)
    return kind(" ".join(problem.what for problem in problems), fix=", or ".join(filter(None, fixes)), rank=rank)


def is_collective(operation: str, name: str = "") -> bool:
    """Whether an operation of a TensorFlow graph is a collective of some engine.

    Args:
        operation: what it does, ``node.op``.
        name: its own name, without scopes.

    Example:

    >>> is_collective("HorovodAllreduce"), is_collective("PyFunc", "hvdkit_collective_3"), is_collective("MatMul")
    (True, True, False)
    """
    operations, names = _in_graphs()
    return operation.startswith(operations) or name.startswith(names)


@functools.cache
def _in_graphs() -> tuple[tuple[str, ...], tuple[str, ...]]:
    every = [info(name) for name in ENGINES.names()]
    operations, names = {engine.graph_operation for engine in every}, {engine.graph_name for engine in every}
    return tuple(operations - {""}), tuple(names - {""})


@functools.cache
def peer_lost() -> re.Pattern:
    """What engines say in a rank whose peers are gone, up to the end of the line.

    Example:

    >>> peer_lost().search("Unknown: Horovod has been shut down. Bye.\\nmore").group()
    'Horovod has been shut down. Bye.'
    """
    texts = (words for name in ENGINES.names() for words in info(name).peer_lost)
    return re.compile(f"(?:{'|'.join(texts)})[^\n]*")


def ended_by_peer(text: str) -> bool:
    """Whether the last words of a rank say that it merely lost another one.

    Example:

    >>> ended_by_peer("horovod.common.exceptions.HorovodInternalError: ..."), ended_by_peer("ValueError: ...")
    (True, False)
    """
    errors = (info(name).peer_lost_error for name in ENGINES.names())
    return bool(peer_lost().search(text)) or any(error in text for error in errors if error)
