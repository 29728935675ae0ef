"""``hvdkit checkpoint``: list, verify, compare, export and remove checkpoints."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from hvdkit.errors import UsageError

_EPILOG = """\b
Examples:
  hvdkit checkpoint ls runs/digits                          list the checkpoints
  hvdkit checkpoint verify runs/digits                      check every byte
  hvdkit checkpoint inspect runs/digits --step 120          show its parts and tensors
  hvdkit checkpoint diff runs/digits 120 240                show what changed in between
  hvdkit checkpoint prune runs/digits --keep-last 3 --dry-run
  hvdkit checkpoint export runs/digits digits.keras         write a model for plain Keras
"""
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List, verify, compare, export and remove checkpoints.

    DIR is a directory of checkpoints, or the directory of a single step if that makes sense.
    """


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--step", type=int, help="The step [default: the newest valid checkpoint].")
@click.option(
    "--import", "modules", multiple=True, metavar="MODULE", help="A module that registers the model's custom classes."
)
def export(directory, path, step, modules):
    """Write the model of a checkpoint to FILE (.keras or .weights.h5), for plain Keras."""
    from hvdkit.checkpoint.exporting import model_of, write_model
    from hvdkit.checkpoint.storage.store import Store

    store = Store(directory)
    checkpoint = store.newest_valid() if step is None else store.verify(step)
    if checkpoint is None:
        raise UsageError(f"{directory} has no valid checkpoint.")
    sys.path.insert(0, "")  # modules are found in the working directory, too
    write_model(model_of(checkpoint, modules), path)
    click.echo(f"Wrote {path}, of step {checkpoint.manifest.step}.")


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="Print only JSON to stdout.")
def ls(directory, as_json):
    """List the checkpoints, newest first.

    "whole" tells whether the manifest and the lengths of the files are valid; `verify` checks every byte.

    --json prints [{"step", "path", "whole", "damage", "epoch", "created", "bytes", "world_size", "metrics"}, ...]:
    if "whole" is false, "damage" contains the reason, and the keys after it are missing.
    """
    rows = [_summary(path) for path in _checkpoints(directory)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"{directory} has no checkpoints.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "epoch", "age", "size", "ranks", "metrics", "whole", box=None, header_style="bold")
    for row in rows:
        if row["whole"]:
            metrics = " ".join(f"{name}={_short(value)}" for name, value in row["metrics"].items())
            age = _age(time.time() - row["created"])
            numbers = (str(row["epoch"]), age, _size(row["bytes"]), str(row["world_size"]))
            table.add_row(str(row["step"]), *numbers, metrics, "yes")
        else:
            table.add_row(str(row["step"]), "", "", "", "", "", "NO")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(table)
    for row in rows:
        if not row["whole"]:
            console.print(row["damage"])


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--step", type=click.IntRange(min=0), help="The step [default: the newest].")
def inspect(directory, step):
    """Show one checkpoint: its manifest, its parts, and the shape and type of each tensor."""
    from hvdkit.checkpoint.storage.reader import Checkpoint

    checkpoint = Checkpoint(_one_checkpoint(directory, step))
    manifest = checkpoint.manifest
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created))
    click.echo(f"{checkpoint.path}")
    click.echo(f"step {manifest.step}, epoch {manifest.epoch}, {manifest.world_size} ranks, written {when}")
    shown = {
        k: v if not isinstance(v, str) or len(v) < 200 else f"({len(v):,} characters)"
        for k, v in manifest.state.items()
    }
    click.echo(f"state: {json.dumps(shown)}")
    for name, part in sorted(manifest.parts.items()):
        click.echo(f"\n{name}: {part.file}, {_size(part.bytes)}, sha256 {part.sha256}")
        click.echo(f"  meta: {json.dumps(part.meta)}")
        for tensor in checkpoint.names(name):
            shape, dtype = checkpoint.shape_dtype(name, tensor)
            click.echo(f"  {dtype:12} {list(shape)!s:20} {json.dumps(tensor)[1:-1]}")


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
def verify(directory):
    """Check every byte of every checkpoint; the exit code is 1 if any is damaged."""
    from hvdkit.checkpoint.storage.format import DamagedCheckpointError
    from hvdkit.checkpoint.storage.reader import Checkpoint

    damaged = 0
    for path in _checkpoints(directory):
        try:
            size = Checkpoint(path).verify().bytes
        except DamagedCheckpointError as error:
            damaged += 1
            click.echo(f"{path.name}  DAMAGED  {error.what}")
        else:
            click.echo(f"{path.name}  ok  {_size(size)}")
    sys.exit(1 if damaged else 0)


@command.command()
@click.argument("places", metavar="DIR A B", nargs=-1, required=True)
def diff(places):
    """Compare two checkpoints: the steps A and B of DIR, or two checkpoints' own directories.

    For each tensor that differs, it prints the largest absolute difference; then it lists the tensors that only one of
    the two has. The exit code is 0 in any case.
    """
    from hvdkit.checkpoint.storage.reader import Checkpoint

    old, new = (Checkpoint(path) for path in _pair(places))
    old_keys, new_keys = ({(part, name) for part in c.manifest.parts for name in c.names(part)} for c in (old, new))
    common, different = old_keys & new_keys, 0
    for key in sorted(common):
        difference = _difference(old, new, key)
        if difference:
            different += 1
            click.echo(f"{_label(key)}: {difference}")
    for checkpoint, keys in ((old, old_keys - new_keys), (new, new_keys - old_keys)):
        for key in sorted(keys):
            click.echo(f"{_label(key)}: only in {checkpoint.path.name}")
    click.echo(
        f"{different} of {len(common)} common tensors differ, {len(old_keys ^ new_keys)} are in one of the two only."
    )


@command.command()
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option(
    "--keep-last", "last", type=click.IntRange(min=0), required=True, help="The number of newest checkpoints to keep."
)
@click.option("--every", type=click.IntRange(min=1), help="Also keep every step that is a multiple of this.")
@click.option("--best", type=click.IntRange(min=0), default=0, help="Also keep this many of the best by --monitor.")
@click.option("--monitor", help="The name of the metric for --best.")
@click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    default="min",
    show_default=True,
    help="Whether less or more is better.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
def prune(directory, dry_run, **rules):
    """Remove old checkpoints, except the newest valid one. While a job writes to DIR, nothing is removed."""
    from hvdkit.checkpoint.storage.lock import DirectoryLock
    from hvdkit.checkpoint.storage.store import RetentionPolicy, Store

    keep = RetentionPolicy(**rules)
    store = Store(directory)
    if dry_run:
        gone = store.prune(keep, dry_run=True)
    else:
        with DirectoryLock(directory):
            gone = store.prune(keep)
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {', '.join(map(str, gone))}" if gone else "nothing to remove")


def _checkpoints(directory: Path) -> list[Path]:
    """The checkpoints' directories, newest first; the directory itself where it is one."""
    from hvdkit.checkpoint.storage.format import step_of
    from hvdkit.checkpoint.storage.store import Store

    if step_of(directory.absolute().name) is not None or (directory / "manifest.json").exists():
        return [directory]
    store = Store(directory)
    return [store.path(step) for step in store.steps()]


def _one_checkpoint(directory: Path, step: int | None) -> Path:
    paths = _checkpoints(directory)
    if step is not None and paths != [directory]:
        from hvdkit.checkpoint.storage.format import step_name

        paths = [path for path in paths if path.name == step_name(step)]
    if not paths:
        raise UsageError(f"{directory} has no checkpoint" + ("." if step is None else f" of step {step}."))
    return paths[0]


def _pair(places: tuple[str, ...]) -> tuple[Path, Path]:
    if len(places) == 2:
        return _one_checkpoint(Path(places[0]), None), _one_checkpoint(Path(places[1]), None)
    if len(places) != 3 or not (places[1].isdecimal() and places[2].isdecimal()):
        raise click.UsageError("diff takes DIR and two steps, or two directories.")
    return _one_checkpoint(Path(places[0]), int(places[1])), _one_checkpoint(Path(places[0]), int(places[2]))


def _summary(path: Path) -> dict[str, Any]:
    from hvdkit.checkpoint.storage.format import DamagedCheckpointError, step_of
    from hvdkit.checkpoint.storage.reader import Checkpoint

    try:
        checkpoint = Checkpoint(path)
    except DamagedCheckpointError as error:
        return {"step": step_of(path.absolute().name), "path": str(path), "whole": False, "damage": error.what}
    manifest = checkpoint.manifest
    metrics = manifest.state.get("metrics")
    return {
        "step": manifest.step,
        "path": str(path),
        "whole": True,
        "damage": None,
        "epoch": manifest.epoch,
        "created": manifest.created,
        "bytes": checkpoint.bytes,
        "world_size": manifest.world_size,
        "metrics": metrics if isinstance(metrics, dict) else {},
    }


def _difference(old, new, key: tuple[str, str]) -> str | None:
    """What differs between two tensors; None where they are equal, NaN for NaN."""
    import numpy as np

    before, after = old.shape_dtype(*key), new.shape_dtype(*key)
    if before != after:
        return f"{before[1]} {list(before[0])} -> {after[1]} {list(after[0])}"
    old_value, new_value = old.get(*key), new.get(*key)
    if old_value.tobytes() == new_value.tobytes():
        return None
    old_value, new_value = old_value.astype("float64"), new_value.astype("float64")
    same = (old_value == new_value) | (np.isnan(old_value) & np.isnan(new_value))
    if same.all():
        return "equal numbers, other bits"  # a zero's sign, or which NaN it is
    with np.errstate(invalid="ignore"):
        gaps = np.where(same, 0, np.abs(old_value - new_value))
    return f"{int(np.count_nonzero(gaps))} of {gaps.size} elements, by {np.max(gaps):.6g} at most"


def _label(key: tuple[str, str]) -> str:
    return f"{key[0]} {json.dumps(key[1])[1:-1]}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{max(seconds, 0):.0f} s"
