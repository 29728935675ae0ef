"""Process sets: collectives among some of the ranks only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.utils.numbers import plain, whole

_REGISTER_FIX = (
    'pass it to hvd.init(process_sets=[...]), or hvd.init(process_sets="dynamic") and hvd.add_process_set(...), on '
    "every rank."
)
_made: list[ProcessSet] = []


class ProcessSet:
    """Some of the ranks, for collectives among them only.

    It is registered by ``hvd.init(process_sets=[...])``, or later by ``hvd.add_process_set`` after
    ``hvd.init(process_sets="dynamic")``. Every rank makes the same sets in the same order, also those it is not in.

    Args:
        ranks_or_comm: ranks of the world, in any order, or an ``mpi4py`` communicator (with ``hvd.init(comm=...)``).

    Attributes:
        ranks: the ranks, ascending.
        process_set_id: Horovod's number for it; None until it is registered.

    Example:

    >>> import hvdkit as hvd
    >>> even = hvd.ProcessSet(range(0, 4, 2))
    >>> even.ranks, even.process_set_id
    ([0, 2], None)
    """

    def __init__(self, ranks_or_comm: Any):
        self.process_set_id: int | None = None
        self.ranks: list[int] | None = None
        self.mpi_comm: Any = None
        _made.append(self)
        if hasattr(ranks_or_comm, "Get_rank"):
            self.mpi_comm = ranks_or_comm
            return
        try:
            ranks = [plain(rank) for rank in ranks_or_comm]
        except TypeError:
            ranks = None
        if not ranks or not all(isinstance(rank, int) for rank in ranks):
            raise UsageError(
                f"A ProcessSet is made from ranks, such as [0, 2], or from an mpi4py communicator. Received: "
                f"{ranks_or_comm!r}."
            )
        if len(set(ranks)) < len(ranks):
            raise UsageError(f"A rank may be in a ProcessSet only once. Received: {ranks}.")
        self.ranks = sorted(ranks)

    def size(self) -> int | None:
        """How many ranks are in it; None until it is registered."""
        return None if self.process_set_id is None else len(self.ranks)

    def rank(self) -> int | None:
        """This process' place in it, -1 if it is not in it; None until it is registered.

        Roots of broadcasts are still named by their rank in the world.
        """
        if self.process_set_id is None:
            return None
        return self.ranks.index(world.rank()) if self.included() else -1

    def included(self) -> bool | None:
        """Whether this process is in it; None if that is not known yet."""
        return None if self.ranks is None else world.rank() in self.ranks

    def __repr__(self) -> str:
        return f"ProcessSet(process_set_id={self.process_set_id}, ranks={self.ranks})"


class _GlobalProcessSet(ProcessSet):
    """All ranks; registered while ``hvd.init()`` is in effect."""

    def __init__(self) -> None:
        self.mpi_comm = None

    @property
    def process_set_id(self) -> int:
        return 0

    @property
    def ranks(self) -> list[int]:
        return list(range(world.size()))


global_process_set = _GlobalProcessSet()


def add_process_set(process_set: ProcessSet | Any) -> ProcessSet:
    """Register a process set after ``hvd.init(process_sets="dynamic")``; called by every rank, in the same order.

    Args:
        process_set: a ``ProcessSet``, or its ranks.

    Raises:
        UsageError: a set with these ranks is registered already, a rank is not in this world, or ``hvd.init()`` was
            called without ``process_sets="dynamic"``.

    Example:

    >>> import hvdkit as hvd
    >>> hvd.init()
    >>> hvd.add_process_set([0]).size()  # in a single process
    1
    """
    if not isinstance(process_set, ProcessSet):
        process_set = ProcessSet(process_set)
    if process_set.ranks is None:
        raise UsageError("A process set made of a communicator is registered by hvd.init(process_sets=[...]) only.")
    check_ranks(process_set)
    process_set.process_set_id = world.engine().add_process_set(process_set.ranks)
    return process_set


def remove_process_set(process_set: ProcessSet) -> bool:
    """Deactivate a process set. Every rank must call it. Returns whether the set was active."""
    if process_set.process_set_id in (None, 0):
        return False
    number, process_set.process_set_id = process_set.process_set_id, None
    return world.engine().remove_process_set(number)


def check_ranks(process_set: ProcessSet) -> None:
    """Refuse a set with a rank that is not in this world."""
    if process_set.ranks and not 0 <= process_set.ranks[0] <= process_set.ranks[-1] < world.size():
        raise UsageError(f"{process_set} has ranks that are not in this world of {world.size()}.")


def find_registered(ranks: Iterable[int]) -> ProcessSet:
    """The registered process set with these ranks; a world has at most one.

    Raises:
        UsageError: there is none.
    """
    wanted = sorted(ranks)
    for process_set in reversed(_made):
        if process_set.ranks == wanted and process_set.process_set_id is not None:
            return process_set
    raise UsageError(f"No process set with the ranks {wanted} is registered.", fix=_REGISTER_FIX)


def find_by_id(process_set_id: int) -> ProcessSet:
    """The registered process set with this number.

    Raises:
        UsageError: there is none.

    Example:

    >>> find_by_id(0) is global_process_set
    True
    """
    if process_set_id == 0:
        return global_process_set
    for process_set in reversed(_made):
        if process_set.process_set_id == process_set_id:
            return process_set
    raise UsageError(f"No process set with the number {process_set_id} is registered.", fix=_REGISTER_FIX)


def engine_of(process_set: ProcessSet | None) -> Any:
    """The engine that moves bytes among the ranks of a set; None means all ranks.

    Raises:
        UsageError: the set is not registered, or this rank is not in it.
    """
    engine = world.engine()
    if process_set is None or process_set.process_set_id == 0:
        return engine
    if process_set.process_set_id is None:
        raise UsageError(f"{process_set} is not registered.", fix=_REGISTER_FIX)
    if not process_set.included():
        raise UsageError(
            f"Rank {world.rank()} is not in {process_set}, so it cannot call its collectives.",
            fix="call it on the ranks of the set only: `if process_set.included(): ...`.",
        )
    return engine.subgroup(process_set.process_set_id, process_set.ranks)


def ranks_of(process_set: ProcessSet | None) -> list[int]:
    """The ranks of a process set, in their order; of the world for None."""
    return list(range(world.size())) if process_set is None else process_set.ranks


def check_root(root_rank: int, process_set: ProcessSet | None = None) -> int:
    """A root as Python's number; one that is no rank of this world, or of the process set, is refused."""
    root_rank = whole(root_rank, "root_rank")
    if process_set is not None and root_rank not in process_set.ranks:
        raise UsageError(f"root_rank must be one of {process_set.ranks}. Received: root_rank={root_rank}.")
    if not 0 <= root_rank < world.size():
        raise UsageError(f"root_rank must be between 0 and {world.size() - 1}. Received: root_rank={root_rank}.")
    return root_rank
