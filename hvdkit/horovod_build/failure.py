"""A failed build's log of thousands of lines -> the first error in it, and the reason in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hvdkit.errors import HorovodBuildError


@dataclass(frozen=True)
class Failure:
    """``lines``: the first error, as the tool printed it; ``reason``: half a sentence; ``fix``: what to do."""

    lines: tuple[str, ...]
    reason: str
    fix: str | None = None


# What a log says -> the reason, and what to do. The first that matches anywhere in the log is taken; groups
# of the pattern fill the gaps. Order: what ends a build from outside comes before what the compilers then say.
_KNOWN = (
    (
        r"Killed signal terminated program|internal compiler error: Killed|virtual memory exhausted"
        r"|\bc(?:c1plus|\+\+): .*out of memory|[Cc]annot allocate memory",
        "the machine has too little memory for this many compilers at once",
        "hvdkit install-horovod --jobs 1",
    ),
    (
        r"No space left on device|\[Errno 28\]",
        "the disk is full",
        "make 2 GB free in the temporary folder (or set TMPDIR to another) and in ~/.cache, and call again",
    ),
    (
        r"Disk quota exceeded|\[Errno 122\]",
        "your disk quota is used up",
        "set TMPDIR and XDG_CACHE_HOME to folders outside the quota, and call again",
    ),
    (
        r"NewConnectionError|Temporary failure in name resolution|Name or service not known|ConnectTimeout"
        r"|ReadTimeout|ProxyError|CERTIFICATE_VERIFY_FAILED|Max retries exceeded|Connection refused"
        r"|Network is unreachable",
        "pip could not reach the package index",
        "check the network and the proxy (pip config list), or call this once on a machine of the same kind that "
        "has a network: its cache (see hvdkit/horovod_build/cache.py) can be copied",
    ),
    (
        r"externally-managed-environment",
        "this Python belongs to the operating system, which forbids pip to change it",
        "make an environment (python3 -m venv ~/hvdkit), install TensorFlow and hvdkit there, and call again",
    ),
    (
        r"\(from versions: none\)",
        "pip found none at all: it could not reach the package index, or that does not have it",
        "check the network, the proxy and the index: pip config list",
    ),
    (
        r"No matching distribution found for (\S+)",
        "the package index has no {0} for this Python and machine",
        "look at which index pip uses: pip config list",
    ),
    (
        r"fatal error: (mpi\.h): No such file",
        "MPI's header {0} is missing",
        "install the MPI's development package, or: hvdkit install-horovod --without mpi",
    ),
    (
        r"Could NOT find MPI",
        "CMake cannot use the MPI that was found",
        "hvdkit install-horovod --without mpi, or name another with --mpicxx",
    ),
    (
        r"Could NOT find (\w+) \(missing: ([^)]+)\)",
        "CMake finds no complete {0}: {1} is missing",
        "hvdkit install-horovod --dry-run shows what was found; name another with --cuda-home or --nccl-home",
    ),
    (
        r"unsupported GNU version|unsupported clang version",
        "this CUDA's nvcc does not know so new a compiler",
        "set CXX and CC to an older one (CXX=g++-12 CC=gcc-12 hvdkit install-horovod), or load a newer CUDA",
    ),
    (
        r"Unsupported gpu architecture '([^']+)'|invalid value '[^']*' for option '--?gpu-architecture'",
        "nvcc does not know the GPU architecture asked for",
        "name others with --gpu-arch; nvcc --list-gpu-arch lists them",
    ),
    (
        r"fatal error: ([\w./+-]+\.(?:h|hpp|cuh)): No such file",
        "the header {0} is missing",
        "install the development package that holds it",
    ),
    (
        r"cannot find -l(\S+)",
        "the linker cannot find the library {0}",
        "install the development package that holds it",
    ),
    (
        r"undefined reference to",
        "the linker misses a symbol: a library of another version or C++ interface was found",
        "hvdkit install-horovod --dry-run shows what was found; name the right MPI, CUDA or NCCL",
    ),
    (r"Permission denied", "a file or a folder may not be written", "see the log for its name"),
)

# One line that is an error of its own, of gcc, clang, nvcc, ld or CMake.
_COMPILER = re.compile(
    r"^\S.*?(?::\d+(?::\d+)?|\(\d+\)): (?:fatal )?error\b"
    r"|: (?:fatal )?error: (?!ld returned)(?!subprocess-exited)"
    r"|: undefined reference to |cannot find -l|^nvcc fatal"
)
_CMAKE = re.compile(r"^\s*CMake Error")
_LAST_RESORT = re.compile(r"^\s*(?:ERROR: |error: |[\w.]*(?:Error|Exception): )")
_NOISE = ("subprocess-exited-with-error", "Failed building wheel", "metadata-generation-failed")


def explain(text: Iterable[str]) -> Failure:
    """The first error of a log and its reason.

    Example:

    >>> explain(["[ 3%] Building", "a.cc:7:1: error: 'x' was not declared in this scope"]).lines
    ("a.cc:7:1: error: 'x' was not declared in this scope",)
    """
    lines = [line.rstrip() for line in text]
    first_error = _first_error(lines)
    whole = "\n".join(lines)
    for pattern, reason, fix in _KNOWN:
        match = re.search(pattern, whole)
        if match:
            return Failure(first_error, reason.format(*(match.groups() or ())), fix)
    return Failure(first_error, "the compiler found an error" if first_error else "the log names no error")


def error(what: str, log: Path, text: Iterable[str] | None = None) -> HorovodBuildError:
    """The error for the user. ``what`` failed, e.g. ``"Building Horovod"``; ``log`` is its whole output."""
    failure = explain(log.read_text(encoding="utf-8", errors="replace").splitlines() if text is None else text)
    first = "".join(f"\n    {line}" for line in failure.lines)
    return HorovodBuildError(
        f"{what} failed: {failure.reason}.{first}\n  The whole log: {log}",
        fix=failure.fix or "hvdkit doctor; if it finds nothing, report the lines above with the log",
    )


def _first_error(lines: list[str]) -> tuple[str, ...]:
    for index, line in enumerate(lines):
        if _COMPILER.search(line) and not any(noise in line for noise in _NOISE):
            # A compiler shows the source line and a caret on the lines that follow.
            shown = [follow for follow in lines[index + 1 : index + 3] if re.match(r"^\s+\d* ?\|", follow)]
            return (line.strip(), *shown)
        if _CMAKE.search(line):
            details = [follow.strip() for follow in lines[index + 1 : index + 6] if follow.strip()]
            return (line.strip(), *[text for text in details[:2] if not text.startswith("Call Stack")])
    for line in reversed(lines):
        if _LAST_RESORT.search(line) and not any(noise in line for noise in _NOISE):
            return (line.strip(),)
    return ()
