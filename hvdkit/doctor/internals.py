"""What hvdkit uses of Keras and TensorFlow that no version of them promises: whether the installed ones have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hvdkit.doctor.finding import Finding
from hvdkit.utils.tested_versions import KERAS, TENSORFLOW

if TYPE_CHECKING:
    from hvdkit.doctor import Context

_NAMES = "what hvdkit uses of the inside of Keras and TensorFlow"
_MOST = 5


def keras_internals(context: Context) -> Iterator[Finding]:
    """Each name that another version took away, with what does not work without it."""
    error = context.probe.error("internals")
    missing = context.probe.get("internals", "missing", [])
    if context.probe.error("tensorflow") or context.probe.error("keras"):
        yield Finding("keras internals", "info", "not compared, since TensorFlow or Keras does not load")
    elif error:
        yield Finding("keras internals", "warn", f"{_NAMES} could not be compared: {error}", KERAS.install)
    elif missing:
        more = f"; and {len(missing) - _MOST} more" if len(missing) > _MOST else ""
        tested = f"{KERAS.install}; {TENSORFLOW.install}"
        yield Finding("keras internals", "fail", f"{'; '.join(missing[:_MOST])}{more}", tested)
    else:
        yield Finding("keras internals", "ok", f"{_NAMES} is there")
