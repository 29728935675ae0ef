"""Which data a model is being trained on: a checkpoint keeps their position."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

_data: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Resumable(Protocol):
    """Data that knows its position and can be set to another."""

    num_batches: int | None
    """The steps of the running epoch in this process; None if their number is unknown."""

    def place(self, steps: int) -> dict[str, Any]:
        """Where the data are after so many steps of the running epoch in this process, as JSON-like data.

        ``"over"`` in it is whether that is the end of the epoch.
        """

    def seek(self, epoch: int, place: dict[str, Any]) -> None:
        """Let an epoch, when it comes, begin at a place.

        Raises:
            UsageError: the data are not those of the place.
        """


def set_current(model: Any, data: Resumable | None) -> None:
    """Remember what a model is trained on; None forgets it."""
    if data is None:
        _data.pop(model, None)
    else:
        _data[model] = data


def current_data(model: Any) -> Resumable | None:
    """The data that a model is being trained on, if they are resumable; else None."""
    return _data.get(model)
