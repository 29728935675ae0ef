"""Whether hosts can still be reached: a host that is gone says nothing, so the others have to be asked."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from hvdkit.utils.rank_text import by_host, ranks_text

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


def explain_silence(silent: Iterable[int], hosts: Mapping[int, str], gone: Mapping[str, str]) -> str:
    """The message about ranks of which nothing was heard, and hosts that do not answer; "" without any.

    Args:
        silent: these ranks.
        hosts: the host of each rank.
        gone: what ``unreachable`` has returned.

    Example:

    >>> print(explain_silence([2], {0: "gpu1", 1: "gpu1", 2: "gpu2"}, {"gpu2": "no answer within 3 s"}))
    hvdkit: gpu2 (rank 2) cannot be reached: no answer within 3 s.
      What to do: look at this host (power, cable, memory).
    >>> print(explain_silence([1], {0: "gpu1", 1: "gpu1"}, {}))
    hvdkit: nothing was heard of rank 1 on gpu1: stopped, hung, or killed with its host.
    """
    everyone = by_host(sorted(hosts), hosts)
    lines = [f"hvdkit: {host} ({ranks_text(everyone[host])}) cannot be reached: {why}." for host, why in gone.items()]
    if lines:
        lines.append(
            f"  What to do: look at {'this host' if len(gone) == 1 else 'these hosts'} (power, cable, memory)."
        )
        return "\n".join(lines)
    names = "; ".join(f"{ranks_text(ranks)} on {host}" for host, ranks in by_host(silent, hosts).items())
    return f"hvdkit: nothing was heard of {names}: stopped, hung, or killed with its host." if names else ""


def _problem(name: str, seconds: float) -> str | None:
    try:
        socket.create_connection((name, _SSH_PORT), seconds).close()
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except OSError as error:
        return None if error.errno in _ANSWERS else error.strerror or str(error)
    return None
