"""Programs: where they are, and what a short call of one prints. Never a shell, and never without a deadline."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def find(name: str) -> str | None:
    """A program of this environment, which need not be activated, or else of PATH.

    Where Python is the system's, PATH goes first: what lies beside it is the system's too, and a module that the user
    has loaded stands in for that.

    Example:

    >>> find("no-such-program") is None
    True
    """
    own = os.pathsep.join((sysconfig.get_path("scripts"), str(Path(sys.executable).parent)))
    is_environment = sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").is_dir()
    places = (own, None) if is_environment else (None, own)
    return next(filter(None, (shutil.which(name, path=place) for place in places)), None)


@dataclass(frozen=True)
class Output:
    """What a short command printed; ``code`` is None where it was still running at the deadline."""

    out: str
    err: str
    code: int | None


def listen(argv: Sequence[str | Path], *, environ: Mapping[str, str] | None = None, seconds: float = 30) -> Output:
    """Run a short command and capture its output, also what it had printed when the deadline ended it.

    Raises:
        OSError: there is no such command.
    """
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        out, err, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        out, err, code = late.stdout or b"", late.stderr or b"", None
    return Output(out.decode(errors="replace"), err.decode(errors="replace"), code)


def ask(
    argv: Sequence[str | Path],
    *,
    environ: Mapping[str, str] | None = None,
    seconds: float = 30,
    stderr: bool = False,
) -> str | None:
    """What a short command prints on stdout (or on stderr), or None where it is missing, fails or hangs.

    >>> ask(["/nowhere/nvcc", "--version"]) is None
    True
    """
    try:
        output = listen(argv, environ=environ, seconds=seconds)
    except OSError:
        return None
    if output.code != 0:
        return None
    return output.err if stderr else output.out
