"""What programs take from ``horovod.runner`` once they run: who they are, and a thread. Starting ranks is refused."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from hvdkit.launch.identity import launch_info

__all__ = ["get_env_rank_and_size", "in_thread"]


def get_env_rank_and_size() -> tuple[int, int]:
    """This process' rank and how many there are, by what its launcher said; 0 and 1 where there is none."""
    info = launch_info()
    return info.rank, info.size


def in_thread(
    target: Callable, args: tuple = (), name: str | None = None, daemon: bool = True, silent: bool = False
) -> threading.Thread:
    """A thread that runs ``target``, started; ``silent`` keeps what it raises off the screen."""

    def quiet(*values: Any) -> None:
        with contextlib.suppress(Exception):
            target(*values)

    thread = threading.Thread(target=quiet if silent else target, args=args, name=name, daemon=daemon)
    thread.start()
    return thread
