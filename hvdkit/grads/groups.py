"""``groups=``: which gradients are moved together."""

from __future__ import annotations

import itertools
from typing import Any

from hvdkit.errors import UsageError
from hvdkit.grads.identity import check_variable, identity
from hvdkit.utils.numbers import plain


def check_groups(groups: Any) -> int | list | None:
    """None, a number of groups (0 is None), or lists of variables.

    Raises:
        UsageError: something else, or a variable in two groups.

    Example:

    >>> check_groups(2), check_groups(0), check_groups(None)
    (2, None, None)
    """
    number = plain(groups)
    if groups is None or number == 0:
        return None
    if isinstance(number, int) and number > 0:
        return number
    if not isinstance(groups, list | tuple) or not all(isinstance(group, list | tuple) for group in groups):
        raise UsageError(
            f"`groups` must be how many groups to make, or a list of lists of variables. Received: groups={groups!r}."
        )
    everything = [identity(check_variable(variable)) for group in groups for variable in group]
    if len(set(everything)) < len(everything):
        raise UsageError("A variable is in two of the `groups`.", fix="put it into one.")
    return [list(group) for group in groups if group]


def partition(indices: list[int], variables: list, groups: int | list | None) -> list[list[int]]:
    """Share indices into ``variables`` out over groups.

    A number makes that many groups of neighbours, as even as can be; of lists, what is in none of them is a group by
    itself.

    Example:

    >>> partition([0, 1, 2, 4, 5], [None] * 6, 2)
    [[0, 1, 2], [4, 5]]
    """
    if groups is None:
        return [indices]
    if isinstance(groups, int):
        size, larger = divmod(len(indices), groups)
        ends = [0]
        for number in range(groups):
            ends.append(ends[-1] + size + (number < larger))
        return [indices[a:b] for a, b in itertools.pairwise(ends) if a < b]
    at = {identity(variables[i]): i for i in indices}
    named = [[at[identity(v)] for v in group if identity(v) in at] for group in groups]
    inside = {i for group in named for i in group}
    return [group for group in named if group] + [[i] for i in indices if i not in inside]
