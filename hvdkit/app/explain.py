"""What a configuration makes of the learning rate, for several numbers of ranks: numbers, a table, a plot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hvdkit.app.schema import Config, Named
from hvdkit.errors import ConfigError, UsageError
from hvdkit.schedules.formula.scaling import scale
from hvdkit.schedules.formula.warmup_then_decay import WarmupThenDecay


@dataclass(frozen=True)
class Rates:
    """A configuration on so many ranks.

    Attributes:
        ranks: how many.
        batch: samples per step on each.
        global_batch: samples per update.
        factor: by what the base rate is multiplied.
        recipe: the rate over the training.
    """

    ranks: int
    batch: int
    global_batch: int
    factor: float
    recipe: WarmupThenDecay


def rates(config: Config, ranks: int) -> Rates:
    """What `lr:` of a configuration means on so many ranks.

    Raises:
        ConfigError: there is no `lr:`, or the global batch does not come out even.
        UsageError: as ``hvd.schedules.large_batch``.
    """
    lr = config.lr
    if lr is None:
        raise ConfigError(
            "The configuration has no `lr:`, so its learning rate is the same on any number of ranks.",
            fix="lr: {base: 0.1, base_batch_size: 256, scale: linear, warmup_epochs: 5, decay: cosine}",
        )
    batch = config.batch_of_each(ranks)
    global_batch = batch * ranks * config.accumulation
    factor = scale(lr.base_batch_size, global_batch, lr.scale)
    decay = lr.decay if isinstance(lr.decay, Named) else Named(name=lr.decay)
    recipe = WarmupThenDecay(
        base_lr=min(lr.base, lr.base * factor) if lr.warmup_from is None else lr.warmup_from,
        peak_lr=lr.base * factor,
        warmup_epochs=lr.warmup_epochs,
        decay=decay.name,
        epochs=config.epochs,
        arguments=decay.arguments(),
    )
    return Rates(ranks, batch, global_batch, factor, recipe)


def table(config: Config, numbers: Sequence[int]) -> list[list[str]]:
    """A row for each number of ranks: the batch, the factor, the rate at the beginning and along the training."""
    epochs = sorted({0.0, config.lr.warmup_epochs if config.lr else 0.0, config.epochs / 2, config.epochs * 0.9})
    rows = [["ranks", "batch per rank", "global batch", "scale", *(f"epoch {epoch:g}" for epoch in epochs)]]
    for ranks in numbers:
        try:
            found = rates(config, ranks)
        except ConfigError as error:
            if config.lr is None:
                raise
            rows.append([f"{ranks:,}", *["-"] * 3, str(error).splitlines()[0]])
            continue
        along = [f"{float(found.recipe.rate(epoch)):.5g}" for epoch in epochs]
        rows.append([f"{ranks:,}", f"{found.batch:,}", f"{found.global_batch:,}", f"x {found.factor:.4g}", *along])
    return rows


def _that_come_out(config: Config, numbers: Sequence[int]) -> Iterator[Rates]:
    """Without the numbers of ranks among which a global batch does not come out even."""
    for ranks in numbers:
        with contextlib.suppress(ConfigError):
            yield rates(config, ranks)


def plot(config: Config, numbers: Sequence[int], path: Path) -> None:
    """Draw the rate over the epochs, a line for each number of ranks, into an image file.

    Raises:
        UsageError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("Drawing needs matplotlib.", fix="pip install 'hvdkit[plot]'") from None
    drawn = list(_that_come_out(config, numbers))
    if not drawn:
        raise UsageError("There is nothing to draw: the global batch comes out even on none of these numbers of ranks.")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = np.linspace(0, config.epochs, 1001)
    for found in drawn:
        label = f"{found.ranks:,} ranks, batch {found.global_batch:,}"
        axes.plot(epochs, found.recipe.rate(epochs), label=label)
    axes.set(xlabel="epoch", ylabel="learning rate", xlim=(0, config.epochs), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
