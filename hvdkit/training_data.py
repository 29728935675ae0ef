"""Which data a model is being trained on, for those who must know how far it has got: checkpoints."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

_data: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Resumable(Protocol):
    """Data that knows its place and can be set to another."""

    num_batches: int | None
    """The steps of the running epoch in this process; None where nobody knows."""

    def place(self, steps: int) -> dict[str, Any]:
        """Where the data are after so many steps of the running epoch in this process, as JSON-like data.

        ``"over"`` in it is whether that is the end of the epoch.
        """

    def seek(self, epoch: int, place: dict[str, Any]) -> None:
        """Let an epoch, when it comes, begin at a place.

        Raises:
            UsageError: the data are not those of the place.
        """


def note(model: Any, data: Resumable | None) -> None:
    """Remember what a model is trained on; None forgets it."""
    if data is None:
        _data.pop(model, None)
    else:
        _data[model] = data


def of(model: Any) -> Resumable | None:
    """What a model is being trained on, where it is resumable."""
    return _data.get(model)
