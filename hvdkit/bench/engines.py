"""The ways to move bytes that this machine has, to be compared."""

from __future__ import annotations

from hvdkit import engines
from hvdkit.engines import ENGINES, info
from hvdkit.errors import LaunchError
from hvdkit.launch import discovery
from hvdkit.launch.launcher import launcher, starters


def here(wanted: str = "") -> dict[str, tuple[str, str]]:
    """A name for each, with its launcher and engine; the fastest first.

    Args:
        wanted: names, with commas between; "" is each engine's first way, where it is there.

    Raises:
        LaunchError: there is none of those wanted.
    """
    tools, installed = discovery.tools(), engines.installed()
    launchers = {launcher(name).rendezvous: name for name in reversed(starters())}
    every, there = [], {}
    for engine in map(info, ENGINES.names()):
        for rendezvous, name in engine.ways.items():
            every.append(name)
            able = engine.problem(rendezvous, installed[engine.name]) is None
            if able and launchers.get(rendezvous) in tools:
                there[name] = launchers[rendezvous], engine.name
    first = [next(iter(info(name).ways.values())) for name in ENGINES.names()]
    names = [name.strip() for name in wanted.split(",") if name.strip()] or first
    found = {name: there[name] for name in names if name in there}
    if not found or (wanted and len(found) < len(names)):
        raise LaunchError(
            f"Ranks cannot be started here with {wanted or ' or '.join(first)}. What there may be: {', '.join(every)}.",
            fix=f"{' or '.join(info(name).install for name in ENGINES.names())}; hvdkit doctor says what is missing.",
        )
    return found
