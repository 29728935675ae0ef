"""Logging that knows its rank: rank 0 speaks, the others only from a warning upwards, with their rank before it."""

from __future__ import annotations

import logging
import sys

from hvdkit import env
from hvdkit.launch.identity import launch_info

logger = logging.getLogger("hvdkit")


class _RankFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        info = launch_info()
        record.where = "hvdkit" if info.size == 1 else f"hvdkit rank {info.rank}"
        return info.rank == 0 or record.levelno >= logging.WARNING


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
