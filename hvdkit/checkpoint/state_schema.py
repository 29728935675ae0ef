"""Whether what a checkpoint says makes sense: every byte of it may be what was written, and still be none of hvdkit's.

Looked at before anything is restored, so that an older checkpoint can be taken instead.
"""

from __future__ import annotations

import functools
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from hvdkit.checkpoint import callback_state, object_state
from hvdkit.checkpoint.state import ATTACHED, OF_PROCESS
from hvdkit.checkpoint.storage.format import DamagedCheckpointError
from hvdkit.checkpoint.storage.reader import Checkpoint
from hvdkit.errors import UsageError


class _Metadata(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Place(_Metadata):
    passed: NonNegativeInt = 0
    over: bool = False
    sizes: list[NonNegativeInt] = []
    ranks: NonNegativeInt | None = None
    facts: dict[str, Any] = {}


class _Rates(_Metadata):
    before: list[float | None] = []
    after: list[float | None] = []
    now: list[float | None] = []


class _Of(_Metadata):
    """What hvdkit itself keeps beside the tensors, of every training. All else is the callback's, or the user's."""

    trained: list[list[int]] = []
    schedules: list[Any] = []
    model: str | None = None
    versions: dict[str, str] = {}


class _OfCallback(_Metadata):
    """What ``CheckpointCallback`` keeps there."""

    place: _Place = _Place()
    rates: _Rates = _Rates()
    metrics: dict[str, Any] = {}
    stopped: bool = False


def check_metadata(metadata: dict[str, Any] | None) -> dict[str, Any]:
    """Metadata of a user's, to be kept in a checkpoint; none by default.

    Raises:
        UsageError: they are no dictionary, or one has the name of hvdkit's own and is not what hvdkit keeps there.

    Example:

    >>> check_metadata({"place": "Lausanne"})
    Traceback (most recent call last):
    hvdkit.errors.UsageError: `metadata` has another use for 'place': Input should be ...
      What to do: give it another name.
    """
    if metadata is not None and not isinstance(metadata, dict):
        raise UsageError(f"`metadata` must be a dictionary. Received: metadata={metadata!r}.")
    metadata = dict(metadata or {})
    try:
        _OfCallback.model_validate(metadata)
        where, what = next(
            ((name, "hvdkit keeps there what it needs") for name in _Of.model_fields if name in metadata), ("", "")
        )
    except ValidationError as error:
        where, what = _first(error)
    if where:
        raise UsageError(f"`metadata` has another use for {where!r}: {what}.", fix="give it another name.")
    return metadata


def of_callback(metadata: dict[str, Any]) -> dict[str, Any]:
    """What ``CheckpointCallback`` has kept; of a checkpoint that it did not write only metrics, if there are any."""
    if {"place", "stopped"} <= metadata.keys():
        return metadata
    return {"metrics": metadata["metrics"]} if isinstance(metadata.get("metrics"), dict) else {}


def check_state(checkpoint: Checkpoint) -> Checkpoint:
    """Check that hvdkit can resume from what a checkpoint says, and return it.

    Raises:
        DamagedCheckpointError: it says something else; the message says where.
    """
    try:
        _Of.model_validate(checkpoint.manifest.state)
        _OfCallback.model_validate(of_callback(checkpoint.manifest.state))
    except ValidationError as error:
        where, what = _first(error)
        raise DamagedCheckpointError(checkpoint.path, f"its state is not valid: {where}: {what}") from error
    for part in checkpoint.manifest.parts:
        if not part.startswith("rank-"):
            continue
        names = checkpoint.names(part)
        try:
            for process, thing in OF_PROCESS.items():
                kept = {n.partition("/")[2]: checkpoint.get(part, n) for n in names if n.startswith(f"{process}/")}
                if kept:
                    thing.check(kept)
            for group in (callback_state.GROUP, ATTACHED):
                object_state.check_group(group, functools.partial(checkpoint.get, part), names)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
            text = f"its {part} is not valid: {type(error).__name__}: {str(error)[:200]}"
            raise DamagedCheckpointError(checkpoint.path, text) from error
    return checkpoint


def _first(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_url=False, include_input=False)[0]
    return ".".join(str(key) for key in first["loc"][:4]), first["msg"]
