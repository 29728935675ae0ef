"""What the engine does and when, as chrome://tracing shows it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class Timeline:
    """Collects spans between ``start`` and ``stop``.

    Example:

    >>> timeline = Timeline()
    >>> with timeline.span("allreduce", 4):  # not started: nothing is kept
    ...     pass
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._events: list[dict] = []

    def start(self, path: str) -> None:
        """Begin; the file is written by ``stop``."""
        self._path, self._events = Path(path), []
        self._path.write_text("[]\n", encoding="utf-8")  # a path that cannot be written is an error now

    def stop(self) -> None:
        """End, and write the file."""
        if self._path is not None:
            self._path.write_text(json.dumps(self._events) + "\n", encoding="utf-8")
            self._path = None

    @contextlib.contextmanager
    def span(self, name: str, size: int) -> Iterator[None]:
        """Record what happens inside, with ``size`` bytes."""
        if self._path is None:
            yield
            return
        begin = time.perf_counter_ns()
        yield
        took = time.perf_counter_ns() - begin
        where = {"pid": 0, "tid": threading.get_ident() % 10_000}
        self._events.append(
            {"name": name, "ph": "X", "ts": begin / 1000, "dur": took / 1000, **where, "args": {"bytes": size}}
        )
