"""``hvdkit train``: a YAML file instead of a script."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

_EPILOG = """\b
Examples:
  hvdkit train configs/digits.yaml -np 2 --set epochs=5
  hvdkit train configs/digits.yaml -np 2 --max-restarts 3   after a failure, restart all ranks, at most three times
"""


@click.command(name="train", epilog=_EPILOG)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. --set epochs=5.")
@click.option(
    "-np", "np_", type=click.IntRange(min=1), help="The number of ranks to start [default: launch.np of the file]."
)
@click.option(
    "--max-restarts", type=click.IntRange(min=0), default=0, metavar="N", help="Restart a failed job up to N times."
)
@click.option("--dry-run", is_flag=True, help="Check the configuration and print it; do not train.")
def command(config: Path, overrides: tuple[str, ...], np_: int | None, max_restarts: int, dry_run: bool) -> None:
    """Train the model that CONFIG, a YAML file, describes.

    Under a launcher (horovodrun, mpirun, srun), this process is one of its ranks. Otherwise it starts `launch.np` ranks
    itself, as `hvdkit run` does. configs/digits.yaml explains every key.
    """
    from hvdkit.app import config as configuration
    from hvdkit.errors import UsageError
    from hvdkit.launch import signals
    from hvdkit.launch.identity import launch_info

    settings = configuration.load_config(config, overrides)
    ranks = np_ or settings.launch.np
    if dry_run:
        import yaml

        if (code := signals.leave()) is not None:
            sys.exit(code)
        _training_module().check_config(settings, ranks)
        click.echo(yaml.safe_dump(settings.model_dump(mode="json", by_alias=True), sort_keys=False).rstrip())
        return
    by_hand = launch_info().launcher == "none"
    if max_restarts and not by_hand:
        raise UsageError(
            "--max-restarts is for the process that starts the ranks, but this process is one of the ranks.",
            fix="pass it to `hvdkit run`, or to `hvdkit train` without a launcher",
        )
    if by_hand and (ranks > 1 or max_restarts):  # a single rank cannot restart itself either
        from hvdkit import launch

        words = ["train", str(config), *(word for o in overrides for word in ("--set", o))]
        engine = None if settings.engine == "auto" else settings.engine  # HVDKIT_ENGINE may choose one
        options = {"launcher": settings.launch.launcher, "engine": engine, "max_restarts": max_restarts}
        sys.exit(launch.run(words, ranks, module="hvdkit", **options))
    if (code := signals.leave()) is not None:  # from here on the training handles signals
        sys.exit(code)
    result = _training_module().train(settings)
    if launch_info().rank == 0:
        click.echo(str(result))


def _training_module() -> Any:
    """Where training is; importing it imports TensorFlow."""
    sys.path.insert(0, "")  # `module:function` in the file is found in the working directory, too
    from hvdkit.app import train

    return train
