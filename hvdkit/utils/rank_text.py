"""Ranks and what each of them brought, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def ranks_text(ranks: list[int]) -> str:
    """``rank 1`` or ``ranks 1, 2``.

    >>> ranks_text([1]), ranks_text([0, 2])
    ('rank 1', 'ranks 0, 2')
    """
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def by_host(ranks: Iterable[int], hosts: Mapping[int, str] | Sequence[str]) -> dict[str, list[int]]:
    """Ranks by the names of their hosts.

    Args:
        ranks: some ranks.
        hosts: the name of each rank's host.

    >>> by_host([0, 2, 3], ["a", "a", "b", "b"])
    {'a': [0], 'b': [2, 3]}
    """
    grouped: dict[str, list[int]] = {}
    for rank in ranks:
        grouped.setdefault(hosts[rank], []).append(rank)
    return grouped


def by_rank(values: list, ranks: Iterable[int]) -> str:
    """Values with the ranks that have them.

    >>> by_rank([3, 4, 4], range(3))
    'rank 0: 3; ranks 1, 2: 4'
    """
    groups: list[tuple[Any, list[int]]] = []
    for rank, value in zip(ranks, values, strict=True):
        for known, those in groups:
            if known == value:
                those.append(rank)
                break
        else:
            groups.append((value, [rank]))
    return "; ".join(f"{ranks_text(those)}: {value}" for value, those in groups)
