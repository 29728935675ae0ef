"""Subprocesses of the build: always an argv list, never a shell, and never without a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Said:
    """What a short command printed; ``code`` is None where it was still running at the deadline."""

    out: str
    err: str
    code: int | None


def listen(argv: Sequence[str | Path], *, environ: Mapping[str, str] | None = None, seconds: float = 30) -> Said:
    """Run a short command and hear what it prints, also what it had printed when the deadline ended it.

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
    return Said(out.decode(errors="replace"), err.decode(errors="replace"), code)


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
        said = listen(argv, environ=environ, seconds=seconds)
    except OSError:
        return None
    if said.code != 0:
        return None
    return said.err if stderr else said.out


def run_logged(
    argv: Sequence[str | Path],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    log: Path,
    seconds: float,
    on_line: Callable[[str], None] = lambda line: None,
) -> int:
    """Run a long command with everything it says appended to ``log``.

    The command and all it started end when this call ends, also by Ctrl-C: make leaves compilers behind
    otherwise.

    Args:
        on_line: called with each line, as it comes.
        seconds: the deadline; then the command is killed.

    Returns:
        The exit code; 124 after the deadline.
    """
    with log.open("a", encoding="utf-8") as out:
        out.write(f"\n$ {' '.join(map(str, argv))}\n")
        out.flush()
        child = subprocess.Popen(
            [str(word) for word in argv],
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        late = threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), _kill(child)))
        timer.daemon = True
        timer.start()
        try:
            for line in child.stdout or ():
                out.write(line)
                on_line(line.rstrip("\n"))
            code = child.wait()
        finally:
            timer.cancel()
            _kill(child)
        if late.is_set():
            out.write(f"hvdkit: killed after {seconds:.0f} s\n")
            return 124
        return code


def _kill(child: subprocess.Popen) -> None:
    """End the command's whole process group; the group may outlive its leader."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
    child.wait()
