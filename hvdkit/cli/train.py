"""``hvdkit train``: a YAML file instead of a script."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(name="train", epilog="Example: hvdkit train configs/digits.yaml -np 2 --set epochs=5")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. --set epochs=5.")
@click.option("-np", "np_", type=click.IntRange(min=1), help="Ranks to start; default: launch.np of the file.")
@click.option("--dry-run", is_flag=True, help="Check the configuration and show it; train nothing.")
def command(config: Path, overrides: tuple[str, ...], np_: int | None, dry_run: bool) -> None:
    """Train the model that CONFIG, a YAML file, describes.

    Started by a launcher (horovodrun, mpirun, srun) it is one of its ranks; started by hand it launches `launch.np`
    ranks itself. Every key is explained in configs/digits.yaml.
    """
    from hvdkit import config as configuration
    from hvdkit import env

    settings = configuration.load(config, overrides)
    if dry_run:
        import yaml

        click.echo(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False).rstrip())
        return
    ranks = np_ or settings.launch.np
    if env.launch_info().launcher == "none" and ranks > 1:
        from hvdkit import launch

        words = ["train", str(config), *(word for o in overrides for word in ("--set", o))]
        sys.exit(launch.run(words, ranks, launcher=settings.launch.launcher, module="hvdkit"))
    sys.path.insert(0, "")  # `module:function` in the file is looked for where the user is
    from hvdkit.train import train

    result = train(settings)
    if env.launch_info().rank == 0:
        click.echo(str(result))
