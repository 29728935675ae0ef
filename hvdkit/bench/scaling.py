"""How much of what more ranks could reach, they do: 1, 2, 3, ... ranks, each beside as many that do not communicate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hvdkit.bench import report, step
from hvdkit.bench.runner import interleave


def report_on(
    workloads: list[str],
    most: int,
    by: tuple[str, str],
    options: dict[str, Any],
    *,
    save_as: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure workloads one after the other with 1 to ``most`` ranks, and print the table so far after each.

    Args:
        workloads: of ``workloads.WORKLOADS``.
        most: how many ranks at most.
        by: their launcher and engine.
        options: ``rounds``, ``seconds`` of a measurement and ``threads`` of a rank.
        save_as: a JSON file for everything.
        plot: an image file for the ratios.
    """
    rows, measurements, against = [], {}, {}
    for workload in workloads:
        pairs = {
            ranks: [
                step.variant(name, workload, ranks, options["threads"], by)
                for name in (step.NO_COMMUNICATION, "hvdkit")
            ]
            for ranks in range(1, most + 1)
        }
        all_of_them = [replace(v, name=f"{v.name}, {ranks}") for ranks, pair in pairs.items() for v in pair]
        done = interleave(all_of_them, options["rounds"], options["seconds"], report.progress(workload))
        for ranks, pair in pairs.items():
            key = f"{workload}, {ranks} rank{'s' * (ranks > 1)}"
            measurements[key], against[key] = {v.name: done[f"{v.name}, {ranks}"] for v in pair}, step.NO_COMMUNICATION
            rows += report.rows({"workload": workload, "ranks": ranks}, measurements[key], step.NO_COMMUNICATION)
        click.echo(report.table(rows))
        if save_as:
            report.save(save_as, {"most": most, "by": by, **options}, rows, measurements)
    if plot:
        report.plot(plot, measurements, against)
