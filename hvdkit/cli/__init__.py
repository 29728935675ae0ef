"""The command line: one file per verb, and `hvdkit --help` imports none of them.

A verb is a file ``hvdkit/cli/<verb>.py`` whose ``command`` is a click command, and one line in ``VERBS``.
"""

from __future__ import annotations

import contextlib
import sys

import click

from hvdkit.errors import HvdkitError
from hvdkit.launch.signals import Signals
from hvdkit.utils.registry import import_object, suggestion
from hvdkit.version import __version__

# verb -> (where its click command is, its line in `hvdkit --help`)
VERBS = {
    "run": ("hvdkit.cli.run:command", "Start a script on several ranks."),
    "train": ("hvdkit.cli.train:command", "Train a model from a YAML file, without code."),
    "config": ("hvdkit.cli.config:command", "Explain a configuration: its batches and learning rates."),
    "checkpoint": ("hvdkit.cli.checkpoint:command", "List, verify, compare, export and remove checkpoints."),
    "doctor": ("hvdkit.cli.doctor:command", "Check this installation and suggest fixes."),
    "bench": ("hvdkit.cli.bench:command", "Measure the speed of training on this machine."),
    "install-horovod": ("hvdkit.cli.install_horovod:command", "Build Horovod for the TensorFlow in this environment."),
}


class _LazyGroup(click.Group):
    """A group that knows its verbs' names and help lines, and imports a verb only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return import_object(VERBS[name][0]) if name in VERBS else None

    def resolve_command(self, ctx: click.Context, args: list[str]):
        if args and args[0] not in VERBS:
            near = suggestion(args[0], VERBS)
            ctx.fail(f"No such verb: {args[0]!r}; " + (near or f"the verbs are {', '.join(VERBS)}."))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: hvdkit run -np 2 train.py      Each verb has its own --help.",
)
@click.version_option(__version__, prog_name="hvdkit")
def group() -> None:
    """Train Keras 3 models on many processes, GPUs and hosts with Horovod."""


def main(argv: list[str] | None = None) -> None:
    """Run a verb; an error meant for the user is printed without a traceback, and the exit code is 1."""
    starts_ranks = (sys.argv[1:] if argv is None else argv)[:1] in (["run"], ["train"])
    try:
        # Install them first: whoever ends a job before its ranks run wants to know that nothing is lost.
        with Signals() if starts_ranks else contextlib.nullcontext():
            group.main(args=argv, prog_name="hvdkit")
    except HvdkitError as error:
        click.echo(f"hvdkit: {error}", err=True)
        sys.exit(1)
