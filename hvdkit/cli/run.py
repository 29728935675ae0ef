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
  hvdkit run -np 2 --max-restarts 3 train.py     after a failure start all ranks again, at most three times
  hvdkit run -np 2 --dry-run train.py            print the command and start nothing

The exit code is that of the rank that failed first, and its traceback is the last thing shown. Lines of every rank
but 0 begin with the rank's number. HVDKIT_GRACE_SECONDS (15) is how long the other ranks may live on after a failure.

SIGTERM and SIGUSR1 are passed on to the ranks, which have HVDKIT_PREEMPT_SECONDS (120) to save and end. Where they end
with 75, the exit code is 75: the job has saved and wants to be started again (sbatch --requeue, a restart policy). So
it is where the signal comes before the training has begun (in a program that imports hvdkit): nothing is lost then.
--max-restarts does so itself where nobody else does: after 75 and after any failure, never after a signal to hvdkit
run. The ranks see in HVDKIT_RESTART how often it did; a script goes on where it was by loading its last checkpoint.
"""


@click.command(
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
    short_help="Start a script on several ranks.",
)
@click.option("-np", "--num-proc", "np", type=click.IntRange(min=1), help="Number of ranks [default: all slots of -H].")
@click.option("-H", "--hosts", metavar="HOST:SLOTS,...", help="The hosts and their slots [default: this host].")
@click.option("--hostfile", metavar="FILE", help="A file with one 'host slots=2' per line.")
@click.option("--launcher", default="auto", show_default=True, metavar="NAME", help=f"auto, {', '.join(starters())}.")
@click.option(
    "--engine", metavar="NAME", help=f"What moves the bytes: auto, {', '.join(ENGINES.names())} [default: auto]."
)
@click.option("--network-interfaces", "interfaces", metavar="IF,...", help="Network interfaces to use, e.g. eth0.")
@click.option(
    "-x",
    "forward",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A variable that must reach every rank; a secret: NAME alone.",
)
@click.option("-m", "--module", "is_module", is_flag=True, help="SCRIPT is a module's name, as with python -m.")
@click.option(
    "--max-restarts", type=click.IntRange(min=0), default=0, metavar="N", help="Start a failed job again, N times."
)
@click.option("--dry-run", is_flag=True, help="Print the launcher, the engine, the command and why; start nothing.")
@click.argument("script", metavar="SCRIPT")
@click.argument("args", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def command(script: str, args: tuple[str, ...], is_module: bool, interfaces: str | None, **options) -> None:
    """Start SCRIPT on several ranks, through horovodrun or mpirun: with Horovod, or with mpi4py where there is none.

    What follows SCRIPT is the script's own and is passed on untouched. Ctrl-C ends all ranks; a second one at once.
    """
    code = launch.run(
        args if is_module else (script, *args),
        module=script if is_module else None,
        interfaces=[name for name in (interfaces or "").split(",") if name],
        **options,
    )
    sys.exit(code)
