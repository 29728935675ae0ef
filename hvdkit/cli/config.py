"""``hvdkit config``: explains a configuration."""

from __future__ import annotations

import re
from pathlib import Path

import click

from hvdkit.app.strict_yaml import shown

_EPILOG = """\b
Examples:
  hvdkit config explain configs/large_batch_1024.yaml                  the rates for 1, 8, 64 and 512 ranks
  hvdkit config explain configs/large_batch_1024.yaml --ranks 2,4 --set lr.scale=sqrt --plot rates.png
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Explain a configuration, without training."""


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    words = [word.strip() for word in value.split(",")]
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", word) for word in words):
        raise click.BadParameter(f"whole numbers from 1 to 999,999,999, such as 1,8,64. Received: {shown(value)}.")
    return [int(word) for word in words]


@command.command(epilog=_EPILOG)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, as in `hvdkit train`.")
@click.option(
    "--ranks",
    default="1,8,64,512",
    show_default=True,
    callback=_numbers,
    metavar="N,N",
    help="The numbers of ranks to show.",
)
@click.option("--plot", "image", type=click.Path(dir_okay=False, path_type=Path), help="Plot the rates to this file.")
def explain(config: Path, overrides: tuple[str, ...], ranks: list[int], image: Path | None) -> None:
    """Print the batch and the learning rates of CONFIG for several numbers of ranks."""
    from hvdkit.app import config as configuration
    from hvdkit.app.explain import plot, table

    settings = configuration.load_config(config, overrides)
    rows = table(settings, ranks)
    widths = [max(len(row[i]) for row in rows if len(row) == len(rows[0])) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join(cells))
    if image is not None:
        plot(settings, ranks, image)
        click.echo(f"Wrote {image}.")
