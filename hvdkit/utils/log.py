"""Logging that knows its rank: rank 0 speaks, the others only from a warning upwards, with their rank before it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from hvdkit.utils import env

logger = logging.getLogger("hvdkit")
#: This rank and the number of ranks. ``hvdkit.launch.identity`` sets this function when it is imported.
rank_and_size: Callable[[], tuple[int, int]] = lambda: (0, 1)


class _RankFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        rank, size = rank_and_size()
        record.where = "hvdkit" if size == 1 else f"hvdkit rank {rank}"
        return rank == 0 or record.levelno >= logging.WARNING


def get_logger() -> logging.Logger:
    """The logger of hvdkit, with its handler the first time; ``HVDKIT_LOG_LEVEL`` sets the level (default INFO)."""
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.addFilter(_RankFilter())
        handler.setFormatter(logging.Formatter("[%(where)s] %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(str(env.get("HVDKIT_LOG_LEVEL", "INFO")).upper())
        logger.propagate = False
    return logger
