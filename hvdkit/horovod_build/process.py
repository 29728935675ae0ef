"""The long commands of the build, with a log and a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


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
