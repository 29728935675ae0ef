"""What TensorFlow's libraries write before a rank's first line: nothing that a user could act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_WARNING = b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
# Severity I of a library whose log has not been set up; warnings (W0000) and errors (E0000) are passed on.
_INFO = re.compile(rb"I0000 00:00:\d+\.\d+ +\d+ [\w.-]+:\d+\] ")
_CONTINUED = b"To enable the following instructions:"
_BEGINNINGS = (_WARNING, b"I0000 00:00:", _CONTINUED)


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether a user asked for it.

    >>> is_wanted({}), is_wanted({"TF_CPP_MIN_LOG_LEVEL": "0"}), is_wanted({"HVDKIT_LOG_LEVEL": "DEBUG"})
    (False, True, True)
    """
    return environ.get("TF_CPP_MIN_LOG_LEVEL") == "0" or environ.get("HVDKIT_LOG_LEVEL", "").upper() == "DEBUG"


def remover() -> Callable[[bytes, bool], bytes]:
    """A stream filter that leaves these lines out; all else passes at once, also what has no end yet.

    Example:

    >>> step = remover()
    >>> step(b"I0000 00:00:1795705145.98   12276 port.cc:153] oneDNN custom operations are on.\\nEpoch 1", False)
    b'Epoch 1'
    """
    held = b""  # the beginning of a line that may be one of them
    inside = False  # a line that has begun to pass

    def step(data: bytes, last: bool) -> bytes:
        nonlocal held, inside
        passed, rest = [], held + data
        held = b""
        for line in rest.splitlines(keepends=True):
            ended = line.endswith((b"\n", b"\r"))
            if not inside and not ended and not last and _may_become(line):
                held = line
            elif inside or not _is_noise(line):
                passed.append(line)
                inside = not ended
        return b"".join(passed)

    return step


def _is_noise(line: bytes) -> bool:
    return line.startswith((_WARNING, _CONTINUED)) or bool(_INFO.match(line))


def _may_become(line: bytes) -> bool:
    return any(beginning.startswith(line) or line.startswith(beginning) for beginning in _BEGINNINGS)
