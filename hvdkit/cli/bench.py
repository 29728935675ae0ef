"""``hvdkit bench``: the speed of training on this machine."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import click

from hvdkit.errors import UsageError
from hvdkit.launch.identity import launch_info

_EPILOG = """\b
Examples:
  hvdkit bench step                           a training step on 2 ranks of this host, with each available engine
  hvdkit bench step -np 1                     the overhead of hvdkit in a single process
  hvdkit bench scaling -np 4 --workloads W2   1, 2, 3 and 4 ranks
  hvdkit bench allreduce -np 4                all-reduce alone
  mpirun -np 64 hvdkit bench step --workloads W1      among ranks that a launcher has started, on any hosts

Variants are measured interleaved, and ratios are of one round: they hold on a machine that others use too. A
measurement during which other programs took more than a twentieth of the cores is repeated.
"""


def _common_options(command: Any) -> Any:
    for option in (
        click.option(
            "-np",
            "--num-proc",
            "np",
            type=click.IntRange(min=1),
            default=2,
            show_default=True,
            help="The number of ranks.",
        ),
        click.option(
            "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Measurements of each variant."
        ),
        click.option(
            "--engines", default="", metavar="LIST", help="The engines: mpi, gloo, horovod-mpi [default: mpi,gloo]."
        ),
    ):
        command = option(command)
    return command


def _step_options(command: Any) -> Any:
    for option in (
        click.option("--plot", type=click.Path(path_type=Path), help="Plot the ratios to this file (.png, .svg)."),
        click.option("--json", "save_as", type=click.Path(path_type=Path), help="Write all measurements to this file."),
        click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads per rank."),
        click.option(
            "--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Of one measurement."
        ),
        click.option(
            "--workloads", default="W1,W2,W3", show_default=True, callback=_workloads, help="See hvdkit bench --help."
        ),
    ):
        command = option(command)
    return _common_options(command)


def _workloads(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    from hvdkit.bench.workloads import WORKLOADS

    names = [name.strip() for name in value.split(",")]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        known = "; ".join(f"{name}: {what}" for name, (what, _) in WORKLOADS.items())
        raise click.BadParameter(f"no workload {', '.join(unknown)}. Known: {known}.")
    return names


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Measure hvdkit on this machine.

    \b
    Workloads: W1  an MLP of 10 M parameters: many bytes
               W2  a small CNN: much to compute
               W3  242 small tensors
    "no communication" is what the ranks reach when they do not communicate: an upper bound.
    """
    # Ended by a batch system, it ends its processes as it does at Ctrl-C; some of them are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@command.command()
@_step_options
@click.option("--extras", default="", metavar="LIST", help="Also measure each engine with fp16, xla, bucket=BYTES.")
def step(
    *, np: int, engines: str, workloads: list[str], extras: str, save_as: Path, plot: Path, **options: Any
) -> None:
    """A training step, beside ranks that do not communicate (with -np 1: beside plain Keras)."""
    from hvdkit.bench import report, runner
    from hvdkit.bench import step as steps
    from hvdkit.bench.engines import launchable_engines

    if launch_info().launcher != "none":
        if engines or extras:
            raise UsageError(
                "--engines and --extras start ranks, but a launcher has already started these.", fix="HVDKIT_ENGINE"
            )
        _among_ranks(workloads, options, save_as=save_as, plot=plot)
        return
    ways = launchable_engines(engines) if np > 1 else {}
    words = [word.strip() for word in extras.split(",") if word.strip()]

    def measure(workload: str) -> dict:
        variants = steps.variants(workload, np, options["threads"], ways, words)
        return runner.interleave(variants, options["rounds"], options["seconds"], report.progress(workload))

    steps.report_on(workloads, measure, {"ranks": np, **options}, save_as=save_as, plot=plot)


def _among_ranks(workloads: list[str], options: dict[str, Any], **files: Path | None) -> None:
    import tensorflow as tf

    import hvdkit as hvd
    from hvdkit.bench import step as steps

    tf.config.threading.set_intra_op_parallelism_threads(options["threads"])
    hvd.init()

    def measure(workload: str) -> dict:
        return steps.among_ranks(workload, options["rounds"], options["seconds"])

    if hvd.rank() == 0:
        steps.report_on(workloads, measure, {"ranks": hvd.size(), **options}, **files)
    else:
        for workload in workloads:
            measure(workload)


@command.command()
@_step_options
def scaling(*, np: int, engines: str, workloads: list[str], save_as: Path, plot: Path, **options: Any) -> None:
    """Compare 1 to NP ranks with the same number of ranks that do not communicate."""
    from hvdkit.bench import scaling as scalings
    from hvdkit.bench.engines import launchable_engines

    if launch_info().launcher != "none":
        raise UsageError(
            "`hvdkit bench scaling` starts ranks, but a launcher has already started these.", fix="hvdkit bench step"
        )
    by = next(iter(launchable_engines(engines).values()))
    scalings.report_on(workloads, np, by, options, save_as=save_as, plot=plot)


@command.command()
@_common_options
def allreduce(np: int, rounds: int, engines: str) -> None:
    """Measure all-reduce of NumPy arrays, and compare it with raw mpi4py if MPI starts the ranks."""
    if launch_info().launcher == "none":
        from hvdkit import launch
        from hvdkit.bench.engines import launchable_engines

        words = ["bench", "allreduce", "--rounds", str(rounds)]
        for name, (launcher, engine) in launchable_engines(engines).items():
            click.echo(f"{name}, {np} ranks", err=True)
            code = launch.run(words, np, launcher=launcher, engine=engine, module="hvdkit")
            if code:
                sys.exit(code)
        return
    import hvdkit as hvd
    from hvdkit.bench import allreduce as reductions
    from hvdkit.bench import report

    hvd.init()
    taken = reductions.measure(rounds)
    if hvd.rank() == 0:
        click.echo(report.table(reductions.rows(taken)))
