"""``hvdkit run``: start a script on several ranks."""

from __future__ import annotations

import sys

import click

from hvdkit import launch
from hvdkit.engines import ENGINES
from hvdkit.launch.launcher import starters

_EPILOG = """\b
Examples:
  hvdkit run -np 2 train.py --lr 0.1             two ranks on this host
  hvdkit run -H gpu1:4,gpu2:4 train.py           four ranks on each of two hosts
  hvdkit run -np 2 -m mypackage.train --lr 0.1   a module, as with python -m
  hvdkit run -np 2 --max-restarts 3 train.py     after a failure, restart all ranks, at most three times
  hvdkit run -np 2 --dry-run train.py            print the command and start nothing

The exit code is that of the rank that failed first, and its traceback is the last output. Lines of all ranks except
rank 0 begin with the rank's number. What TensorFlow's libraries write before their logs are set up is left out
(TF_CPP_MIN_LOG_LEVEL=0 keeps it). After a failure, the other ranks have HVDKIT_GRACE_SECONDS (15) to end.

SIGTERM and SIGUSR1 are passed on to the ranks, which have HVDKIT_PREEMPT_SECONDS (120) to save and end. If they exit
with 75, the exit code is 75: the job has saved and should be started again (sbatch --requeue, a restart policy). It is
also 75 if the signal arrives before a program that imports hvdkit has begun to train, because nothing is lost then.
With --max-restarts, hvdkit run itself restarts the ranks: after exit code 75 and after any failure, but not after a
signal to hvdkit run. HVDKIT_RESTART tells the ranks how often; a script resumes by loading its latest checkpoint.
"""


@click.command(
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
    short_help="Start a script on several ranks.",
)
@click.option(
    "-np", "--num-proc", "np", type=click.IntRange(min=1), help="The number of ranks [default: all slots of -H]."
)
@click.option("-H", "--hosts", metavar="HOST:SLOTS,...", help="The hosts and their slots [default: this host].")
@click.option("--hostfile", metavar="FILE", help="A file with one line per host, like 'host slots=2'.")
@click.option("--launcher", default="auto", show_default=True, metavar="NAME", help=f"auto, {', '.join(starters())}.")
@click.option(
    "--engine",
    metavar="NAME",
    help=f"What moves the bytes: auto, {', '.join(ENGINES.names())} [default: HVDKIT_ENGINE, or auto].",
)
@click.option(
    "--algorithm",
    metavar="NAME",
    help="The all-reduce: auto, ring, hierarchical, ... as the engine has it [default: HVDKIT_ALGORITHM, or auto].",
)
@click.option("--network-interfaces", "interfaces", metavar="IF,...", help="The network interfaces to use, e.g. eth0.")
@click.option(
    "-x",
    "forward",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="An environment variable for every rank; for a secret, pass only NAME.",
)
@click.option("-m", "--module", "is_module", is_flag=True, help="SCRIPT is the name of a module, as with python -m.")
@click.option(
    "--max-restarts", type=click.IntRange(min=0), default=0, metavar="N", help="Restart a failed job up to N times."
)
@click.option(
    "--dry-run", is_flag=True, help="Print the launcher, the engine, the command and the reasons; start nothing."
)
@click.argument("script", metavar="SCRIPT")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def command(
    script: str,
    *,
    args: tuple[str, ...],
    is_module: bool,
    interfaces: str | None,
    algorithm: str | None,
    forward: tuple[str, ...],
    **options,
) -> None:
    """Start SCRIPT on several ranks with horovodrun or mpirun, over Horovod or, without Horovod, over mpi4py.

    Arguments after SCRIPT are passed on to the script. Ctrl-C ends all ranks; a second Ctrl-C ends them immediately.
    """
    code = launch.run(
        args if is_module else (script, *args),
        module=script if is_module else None,
        forward=(*forward, f"HVDKIT_ALGORITHM={algorithm}") if algorithm else forward,
        interfaces=[name for name in (interfaces or "").split(",") if name],
        **options,
    )
    sys.exit(code)
