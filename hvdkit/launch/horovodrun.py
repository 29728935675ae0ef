"""``horovodrun --gloo``: needs no MPI; ssh reaches the other hosts.

Horovod 0.28.1 starts each rank with a shell line ``env NAME=VALUE ... command`` that holds the WHOLE environment, on
this host too: each user of the machine reads it with ``ps``. So only variables that are known to hold no secret stay
there. All others reach the ranks by a private file, on other hosts where those see the run directory (``TMPDIR``).
"""

from __future__ import annotations

from collections.abc import Mapping

from hvdkit.errors import LaunchError
from hvdkit.launch.env_allowlist import may_be_seen
from hvdkit.launch.launcher import Launcher, RankVariables
from hvdkit.launch.plan import LaunchPlan, Request, SystemInfo, worker

# Linux takes no single word over 128 KiB, and horovodrun makes one word of the environment and the command.
_LONGEST = 96 * 1024


class Horovodrun(Launcher):
    """The launcher that comes with Horovod, over Gloo."""

    program = "horovodrun"
    rendezvous = "gloo"
    variables = (
        RankVariables(
            *("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
            *("HOROVOD_CROSS_RANK", "HOROVOD_CROSS_SIZE"),
        ),
    )
    own_prefixes = ("HOROVOD_",)
    reads_utf8_only = True  # its reader dies of anything else, and the rank then hangs
    gives_terminal = False

    def problem(self, request: Request, system: SystemInfo) -> LaunchError | None:
        """Why horovodrun cannot be used here."""
        if "horovodrun" not in system.tools:
            return LaunchError("horovodrun is not installed.", fix="hvdkit install-horovod")
        if system.allocated_nodes > 1 and not request.hosts:
            return LaunchError(
                f"horovodrun does not read the batch system's allocation of {system.allocated_nodes} hosts.",
                fix="name the hosts: -H host1:2,host2:2",
            )
        return None

    def plan(self, request: Request, system: SystemInfo, env: dict[str, str], why: str) -> LaunchPlan:
        """``horovodrun --gloo -np N [-H ...] [--network-interfaces ...] python -m hvdkit.launch.worker ...``."""
        argv = [system.tools["horovodrun"].path, "--gloo", "-np", str(request.np)]
        if request.hosts:
            argv += ["-H", ",".join(map(str, request.hosts))]
        if request.interfaces:
            argv += ["--network-interfaces", ",".join(request.interfaces)]
        return LaunchPlan(
            launcher="horovodrun",
            why=why,
            argv=(*argv, *worker(request, system)),
            np=request.np,
            env=env,
            private=_withheld({**system.environ, **env}, request),
            hosts=request.hosts,
            tagged=True,
        )


def _withheld(environ: Mapping[str, str], request: Request) -> tuple[str, ...]:
    """The names of variables that must not be on a command line, first those that must reach every rank.

    A value after ``-x`` may: it is on the command line of `hvdkit run` already.

    Args:
        environ: all variables.
        request: what the user asked for.
    """
    forwarded = [item.partition("=") for item in request.forward]
    shown = {name for name, given, _ in forwarded if given} - request.environ.keys()
    wanted = {name for name, *_ in forwarded} | request.environ.keys()
    names = [name for name, value in environ.items() if name not in shown and not may_be_seen(name, value)]
    rest = sorted((name for name in environ if name not in names), key=lambda name: len(environ[name]))
    while rest and sum(len(name) + len(environ[name]) + 4 for name in rest) > _LONGEST:
        names.append(rest.pop())
    return tuple(sorted(names, key=lambda name: (name not in wanted, name)))
