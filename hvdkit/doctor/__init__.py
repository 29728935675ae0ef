"""``hvdkit doctor``: look at this installation and say what is wrong, why, and what to type.

A check is a function that takes a ``Context`` and yields ``Finding``s; ``CHECKS`` names them all. A new check is one
function and one line there. A check that crashes becomes a finding itself. What needs TensorFlow is asked once, in one
subprocess with a deadline (``probe``), so that a hung GPU driver or a crash on import does not take the doctor along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from hvdkit import engines
from hvdkit.doctor import two_ranks
from hvdkit.doctor.finding import Finding
from hvdkit.doctor.probe import Probe
from hvdkit.launch import discovery
from hvdkit.launch.launcher import Tool
from hvdkit.utils.registry import import_object

#: Every check, in the order in which it is shown.
CHECKS = (
    "hvdkit.doctor.software:python",
    "hvdkit.doctor.software:tensorflow",
    "hvdkit.doctor.software:keras",
    "hvdkit.doctor.software:requirements",
    "hvdkit.doctor.internals:keras_internals",
    "hvdkit.doctor.ranks:launchers",
    "hvdkit.doctor.ranks:engines",
    "hvdkit.doctor.ranks:horovod",
    "hvdkit.doctor.ranks:mpi",
    "hvdkit.doctor.ranks:mpi4py",
    "hvdkit.doctor.machine:cores",
    "hvdkit.doctor.machine:gpus",
    "hvdkit.doctor.machine:network",
    "hvdkit.doctor.machine:shared_memory",
    "hvdkit.doctor.machine:launched_by",
)


class Context:
    """What several checks look at; each part is determined on first use."""

    @cached_property
    def probe(self) -> Probe:
        """What one Python with TensorFlow, Keras and Horovod loaded says."""
        return Probe.run()

    @cached_property
    def mpi4py(self) -> Probe:
        """What mpi4py says in one of two ranks, if there is an mpirun that can start them; in one process else."""
        return Probe.run(*two_ranks.words(by_mpirun="mpirun" in self.tools))

    @cached_property
    def tools(self) -> dict[str, Tool]:
        """The launchers that are there, by name."""
        return discovery.tools()

    @cached_property
    def installed(self) -> dict[str, Any]:
        """What is installed of each engine, by name."""
        return engines.installed()

    @cached_property
    def usable_engines(self) -> dict[str, list[str]]:
        """The engines that can move bytes here, each with the launchers whose ranks can use it."""
        launchers_by_engine: dict[str, list[str]] = {}
        for by, name in discovery.pairs(self.tools, self.installed):
            launchers_by_engine.setdefault(name, []).append(by)
        return launchers_by_engine


def examine(checks: Iterable[str] = CHECKS) -> list[Finding]:
    """Run the checks."""
    context = Context()
    return [finding for check in checks for finding in _safely(check, context)]


def _safely(check: str, context: Context) -> Iterator[Finding]:
    name = check.rpartition(":")[2].replace("_", " ")
    try:
        yield from import_object(check)(context)
    except Exception as error:  # noqa: BLE001  one broken check must not hide what the others found
        yield Finding(name, "warn", f"this check itself failed: {type(error).__name__}: {error}", "please report it")
