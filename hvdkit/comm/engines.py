"""Which engine moves the bytes of this world."""

from __future__ import annotations

from hvdkit import engines
from hvdkit.engines import ENGINES, info
from hvdkit.errors import LaunchError
from hvdkit.launch.identity import LaunchInfo
from hvdkit.launch.launcher import launcher
from hvdkit.utils.registry import import_object


def choose_engine(wanted: str, launched: LaunchInfo) -> tuple[str, str]:
    """The engine's name, and why it, in a few words.

    Args:
        wanted: a name in ``ENGINES``, or ``"auto"``: the first of them that is installed, that can reach the ranks
            which this launcher started, and that has nothing against it (``mpi`` leaves ranks with GPUs to others).
        launched: who started this process.

    Raises:
        UsageError: there is no engine of that name.
        LaunchError: no engine that is installed can be used; ``HorovodMissingError`` where Horovod alone could be.

    Example:

    >>> choose_engine("horovod", LaunchInfo("horovodrun", size=2))
    ('horovod', 'it was asked for')
    """
    ENGINES.check(wanted, ["auto", *ENGINES.names()])  # a misspelt name is the first thing to say
    if wanted != "auto":
        return wanted, "it was asked for"
    rendezvous = launcher(launched.launcher).rendezvous
    there = engines.installed()
    against: dict[str, str] = {}
    broken: dict[str, LaunchError] = {}
    for name in engines.usable(ENGINES.names(), rendezvous, there):
        try:
            reason = import_object(info(name).target).why_not()
        except LaunchError as error:
            broken[name] = error
            continue
        if reason is None:
            others = [f"not {other}: {why}" for other, why in against.items()]
            others += [f"not {other}: {error.what.rstrip('.')}" for other, error in broken.items()]
            return name, "; ".join([f"{launched.launcher} started the ranks", *others])
        against[name] = reason
    for name, reason in against.items():
        return name, f"{reason}, but no other engine can be used here"
    for error in broken.values():
        raise error
    raise engines.refusal(ENGINES.names(), rendezvous, there, launched.rank)
