"""Starting the ranks: a plan made of plain data, one file per launcher, and a supervisor that leaves no process behind.

``launcher`` says which launchers there are, ``plan`` chooses one of them, ``discovery`` looks at the machine for it,
``supervise`` starts the launcher, ``worker`` is the small parent of each rank, ``records`` says who failed first,
``restarts`` starts it all again after that. ``identity`` tells a process which rank it is. Nothing here imports
TensorFlow, Keras or Horovod.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO


def run(
    args: Sequence[str],
    np: int | None = None,
    *,
    launcher: str = "auto",
    engine: str | None = None,
    hosts: str | None = None,
    hostfile: str | None = None,
    interfaces: Sequence[str] = (),
    forward: Sequence[str] = (),
    module: str | None = None,
    environ: Mapping[str, str] | None = None,
    max_restarts: int = 0,
    dry_run: bool = False,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
) -> int:
    """Run a script on several ranks and wait for all of them.

    Args:
        args: the script and its arguments; with ``module``, the arguments alone.
        np: the number of ranks; by default the number of the hosts' slots.
        launcher: ``"auto"``, ``"horovodrun"`` or ``"mpirun"``.
        engine: what moves the bytes between the ranks, ``"auto"``, ``"mpi"`` or ``"horovod"``; by default the value of
            ``HVDKIT_ENGINE``. ``hvd.init()`` uses it in the ranks.
        hosts: ``"host1:2,host2:2"``; by default this host.
        hostfile: a file with lines such as ``host slots=2``, instead of ``hosts``.
        interfaces: the network interfaces to use, e.g. ``["eth0"]``.
        forward: names of variables, or ``NAME=VALUE``, that must reach the ranks on other hosts too. A value that is
            given here is no secret: other users of the machine can see it, as they see the one after ``-x``.
        module: run this module, as ``python -m`` does.
        environ: variables to set for the ranks, on top of this process's environment. No other user sees them: the
            ones that are not known to hold no secret reach the ranks of ``horovodrun`` by a private file, on other
            hosts if these share ``TMPDIR``.
        max_restarts: how often to restart all ranks after an exit code other than 0, but not after a signal to this
            process. ``HVDKIT_RESTART`` tells the ranks the number of restarts; they resume from their checkpoint.
        dry_run: print the plan and start nothing.
        stdout, stderr: binary files for the ranks' output; by default this process's own.

    Returns:
        The exit code of the rank that failed first, or 128 + N if signal N ended it; 0 if all ranks succeeded. That
        rank's traceback is the last output on ``stderr``. The exit code is 75 (``hvdkit.errors.REQUEUE_EXIT_CODE``) if
        the ranks were preempted and saved, and should be started again.

    Raises:
        UsageError: an argument cannot be used: the script does not exist, a host is unknown, or there are too few
            slots.
        LaunchError: no launcher can start the ranks, or this process is itself one of several ranks.
        HorovodMissingError: Horovod was requested, but this Python does not have it.

    Example: ``hvdkit.launch.run(["train.py", "--lr", "0.1"], np=2)``
    """
    import sys

    from hvdkit.errors import LaunchError, UsageError
    from hvdkit.launch import discovery, program, restarts, streams
    from hvdkit.launch.hosts import parse_hosts, read_hostfile
    from hvdkit.launch.identity import launch_info
    from hvdkit.launch.plan import Request, make_plan
    from hvdkit.launch.signals import Signals

    info = launch_info()
    if info.size > 1:
        raise LaunchError(
            f"This process is already rank {info.rank} of {info.size}, started by {info.launcher}.",
            fix="start the ranks once: either `hvdkit run -np N train.py` or the launcher's own command, not both",
        )
    if hosts is not None and hostfile is not None:
        raise UsageError("Hosts are given twice, by -H and by --hostfile.", fix="give one of them")
    if max_restarts < 0:
        raise UsageError(f"max_restarts must be at least 0. Received: {max_restarts}.", fix="--max-restarts 3")
    listed = parse_hosts(hosts) if hosts is not None else read_hostfile(hostfile) if hostfile else ()
    words = program.module_program(module, args) if module is not None else program.script_program(args)
    given = {**(environ or {}), restarts.RESTART: "0"}
    request = Request(words, np, launcher, engine, listed, tuple(interfaces), tuple(forward), given)
    with Signals() as signals:
        plan = make_plan(request, discovery.detect(request))
        if dry_run:
            print(plan)  # noqa: T201  what was asked for
            return 0
        sinks = {"stdout": stdout or streams.binary(sys.stdout), "stderr": stderr or streams.binary(sys.stderr)}
        return restarts.supervise_with_restarts(plan, signals, max_restarts, **sinks)
