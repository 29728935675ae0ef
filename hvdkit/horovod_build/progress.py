"""What the user sees: a moving line on a terminal, plain lines in a log, the compiler with --verbose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status


class Progress:
    """The step that is under way; told its percentage and every line its command says."""

    def __init__(self, report: Reporter, text: str, status: Status | None):
        self._report, self._text, self._status = report, text, status
        self._began = time.monotonic()
        self._quarter = 0

    def percent(self, number: int) -> None:
        """How far it is, 0 to 100; a log gets a line at each quarter."""
        if self._status:
            self._status.update(escape(f"{self._text}: {number} % ({self.elapsed()})"))
        elif number // 25 > self._quarter and number < 100 and not self._report.verbose:
            self._quarter = number // 25
            self._report.line(f"  {number} % ({self.elapsed()})")

    def output_line(self, line: str) -> None:
        """A line of the command's output: shown with --verbose."""
        if self._report.verbose:
            self._report.line(line)

    def elapsed(self) -> str:
        """The time since the step began: ``"1 min 25 s"``."""
        return duration(time.monotonic() - self._began)


class Reporter:
    """Prints the steps.

    Args:
        verbose: show the commands' output too.
        console: where to; stdout by default.
    """

    def __init__(self, verbose: bool = False, console: Console | None = None):
        self.verbose = verbose
        self._console = console or Console(highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """A line as it is, brackets too."""
        self._console.print(text, markup=False)

    @contextmanager
    def step(self, text: str) -> Iterator[Progress]:
        """One step: announced when it begins, its time told when it ends."""
        moving = self._console.is_terminal and not self.verbose
        status = self._console.status(escape(text)) if moving else None
        progress = Progress(self, text, status)
        if status:
            with status:
                yield progress
            self.line(f"{text}: {progress.elapsed()}")
        else:
            self.line(f"{text} ...")
            yield progress
            self.line(f"  done ({progress.elapsed()})")


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(3.21), duration(85)
    ('3.2 s', '1 min 25 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
