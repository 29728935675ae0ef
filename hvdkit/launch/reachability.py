"""Whether hosts can still be reached: a host that is gone says nothing, so the others have to be asked."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

_SSH_PORT = 22
# What a connection to a host that answers can end with. A closed port is an answer.
_ANSWERS = (errno.ECONNREFUSED, errno.ECONNRESET)
_AT_ONCE = 64


def unreachable(hosts: Iterable[str], seconds: float = 3.0) -> dict[str, str]:
    """Those of some hosts that do not answer, and why, in a few words.

    Args:
        hosts: their names.
        seconds: how long one may take.

    Example:

    >>> unreachable(["localhost"])
    {}
    """
    names = list(hosts)
    if not names:
        return {}
    with ThreadPoolExecutor(min(len(names), _AT_ONCE)) as pool:
        problems = pool.map(lambda name: _problem(name, seconds), names)
    return {name: problem for name, problem in zip(names, problems, strict=True) if problem}


def explain_unreachable(problems: Mapping[str, str], ranks: Mapping[str, list[int]]) -> str:
    """The message about hosts that do not answer.

    Args:
        problems: what ``unreachable`` has returned.
        ranks: those of each host that have not said how they ended.

    Example:

    >>> print(explain_unreachable({"gpu2": "timed out"}, {"gpu2": [2, 3]}))
    hvdkit: gpu2 (ranks 2, 3) cannot be reached: timed out.
      What to do: look at this host (power, cable, memory); the ranks there have not said how they ended.
    """
    lines = [f"hvdkit: {host} ({_numbers(ranks[host])}) cannot be reached: {why}." for host, why in problems.items()]
    which = "this host" if len(lines) == 1 else "these hosts"
    fix = f"look at {which} (power, cable, memory); the ranks there have not said how they ended."
    return "\n".join([*lines, f"  What to do: {fix}"])


def _numbers(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _problem(name: str, seconds: float) -> str | None:
    try:
        socket.create_connection((name, _SSH_PORT), seconds).close()
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return None if error.errno in _ANSWERS else error.strerror or str(error)
    return None
