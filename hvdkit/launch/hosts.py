"""Hosts and their slots, from ``-H host1:2,host2:2`` or from a host file.

A host file is read here and not handed to the launcher, because each launcher has its own dialect. A line is one of
``host``, ``host:2`` or ``host slots=2``; what follows a ``#`` is a comment.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hvdkit.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # never a leading dash: it would be read as an option
_LINE = re.compile(r"(?P<name>[^\s:]+)(?::(?P<colon>\S+)|\s+slots\s*=\s*(?P<slots>\S+))?")


class Host(NamedTuple):
    """A host and how many ranks it takes.

    Example:

    >>> str(Host("gpu1", 4))
    'gpu1:4'
    """

    name: str
    slots: int

    def __str__(self) -> str:
        return f"{self.name}:{self.slots}"


def rank_hosts(hosts: Sequence[Host], ranks: int) -> list[str]:
    """The name of each rank's host; launchers fill one host after the other.

    Example:

    >>> rank_hosts(parse_hosts("gpu1:2,gpu2:2"), 3)
    ['gpu1', 'gpu1', 'gpu2']
    """
    return [host.name for host in hosts for _ in range(host.slots)][:ranks]


def parse_hosts(text: str) -> tuple[Host, ...]:
    """The hosts of ``-H``; a host without a number has one slot.

    Raises:
        UsageError: a name or a number that cannot be one.

    Example:

    >>> parse_hosts("gpu1:4,gpu2")
    (Host(name='gpu1', slots=4), Host(name='gpu2', slots=1))
    """
    return tuple(_host(part.strip(), f"-H {text}") for part in text.split(","))


def read_hostfile(path: str) -> tuple[Host, ...]:
    """The hosts of a host file.

    Raises:
        UsageError: the file cannot be read, is empty, or a line is not a host; the line's number is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UsageError(f"The host file {path} cannot be read: {reason}.", fix="give the path of a file") from None
    bare = [(number, line.split("#")[0].strip()) for number, line in enumerate(lines, 1)]
    hosts = tuple(_host(line, f"{path}, line {number}") for number, line in bare if line)
    if not hosts:
        raise UsageError(f"The host file {path} names no host.", fix="write one 'host slots=2' per line")
    return hosts


def _host(text: str, where: str) -> Host:
    match = _LINE.fullmatch(text)
    slots = (match["colon"] or match["slots"] or "1") if match else ""
    if not match or not _NAME.fullmatch(match["name"]) or not slots.isdecimal() or int(slots) < 1:
        raise UsageError(
            f"{where}: {text!r} is not a host with its number of slots.",
            fix="write host:2 (in a file also 'host slots=2'), with a number of at least 1",
        )
    return Host(match["name"], int(slots))
