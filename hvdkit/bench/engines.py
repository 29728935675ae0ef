"""The ways to move bytes that this machine has, to be compared."""

from __future__ import annotations

from hvdkit import engines
from hvdkit.engines import ENGINES, info
from hvdkit.errors import LaunchError
from hvdkit.launch import discovery
from hvdkit.launch.launcher import launcher


def launchable_engines(wanted: str = "") -> dict[str, tuple[str, str]]:
    """A name for each, with its launcher and engine; the fastest first.

    Args:
        wanted: names, with commas between; "" is each engine's first way, where it is there.

    Raises:
        LaunchError: there is none of those wanted.
    """
    known = [info(name) for name in ENGINES.names()]
    ways = [list(engine.ways.values()) for engine in known]
    every, first = [name for names in ways for name in names], [names[0] for names in ways]
    there = {
        info(engine).ways[launcher(by).rendezvous]: (by, engine)
        for by, engine in reversed(discovery.pairs(discovery.tools(), engines.installed()))
        if launcher(by).starts_ranks
    }
    names = [name.strip() for name in wanted.split(",") if name.strip()] or first
    chosen = {name: there[name] for name in names if name in there}
    if not chosen or (wanted and len(chosen) < len(names)):
        raise LaunchError(
            f"Ranks cannot be started here with {wanted or ' or '.join(first)}. What there may be: {', '.join(every)}.",
            fix=f"{' or '.join(engine.install for engine in known)}; hvdkit doctor says what is missing.",
        )
    return chosen
