"""Waiting for other ranks with a deadline: MPI's own waiting has none, and names no rank."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence

from hvdkit.errors import CommunicationError, broken_off
from hvdkit.utils.log import get_logger
from hvdkit.utils.rank_text import by_host

_yield = getattr(os, "sched_yield", lambda: time.sleep(0))
# Up to here a wait spins, giving the core to whoever wants it at each turn; then it sleeps. To sleep from 0.3 ms on
# cost a step of many small tensors a sixth of its speed, and gained nothing with two ranks on a core.
_SPIN_SECONDS = 0.01
_SHORTEST_SLEEP, _LONGEST_SLEEP = 0.00005, 0.002
#: The longest sleep of a wait for messages: MPI moves them only while it is asked for them.
MESSAGES_SLEEP = 0.0005


class Timeout:
    """How long this rank waits for the others.

    Args:
        rank: this rank in the world.
        deadline: seconds; 0 waits for ever. A warning comes after a tenth of it.
        hosts: the names of the ranks' hosts, for messages.
    """

    def __init__(self, rank: int, deadline: float, hosts: Sequence[str] = ()):
        self.rank = rank
        self.deadline = deadline
        self._hosts = hosts

    def names(self, ranks: Iterable[int]) -> str:
        """Ranks in words, with their hosts where there are several.

        Example:

        >>> Timeout(0, 60, ["a", "b", "b"]).names([0, 1, 2]), Timeout(0, 60, ["a", "a"]).names([0, 1])
        ('0 on a; 1, 2 on b', '0, 1')
        """
        if len(set(self._hosts)) < 2:
            return ", ".join(map(str, ranks))
        groups = by_host(ranks, self._hosts).items()
        return "; ".join(f"{', '.join(map(str, numbers))} on {host}" for host, numbers in groups)

    def wait(
        self, ready: Callable[[], bool], missing: Callable[[], str], what: str, longest_sleep: float | None = None
    ) -> None:
        """Return when ``ready()``.

        Args:
            ready: asked again and again.
            missing: the ranks that have not come, in words; asked when it takes long.
            what: what they are waited for in.
            longest_sleep: seconds between two questions at most; None is for what other processes write into memory.

        Raises:
            CommunicationError: the deadline has passed.
        """
        if ready():
            return
        begin = time.perf_counter()
        while time.perf_counter() - begin < _SPIN_SECONDS:
            _yield()
            if ready():
                return
        warn_at = self.deadline / 10 or 60.0
        while not ready():
            waited = time.perf_counter() - begin
            if self.deadline and waited > self.deadline:
                raise broken_off(f"missing ranks: {missing()}, {what}, for {waited:.0f} s", self.rank)
            if waited > warn_at:
                get_logger().warning("waiting for %.0f s: %s.", waited, what)
                warn_at *= 10
            time.sleep(min(longest_sleep or _LONGEST_SLEEP, max(_SHORTEST_SLEEP, waited / 50)))


def mismatch(per_rank: dict[int, str], rank: int) -> CommunicationError:
    """The error of ranks that make different collectives: what each is about to do, by its number in the world."""
    texts = "; ".join(f"rank {name}: {text}" for name, text in per_rank.items())
    return CommunicationError(
        f"The ranks do not make the same collective: {texts}.",
        fix="make the same calls in the same order, with the same shapes and dtypes, on every rank.",
        rank=rank,
    )
