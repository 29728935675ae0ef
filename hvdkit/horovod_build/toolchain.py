"""What the machine has to compile with, tried by really compiling: a ``c++`` without headers is no compiler."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from hvdkit.errors import HorovodBuildError
from hvdkit.horovod_build import failure
from hvdkit.utils import env

_PACKAGES = "Debian, Ubuntu: apt-get install g++ make; Fedora, RHEL: dnf install gcc-c++ make; or module load gcc"
_FEATURES = ("f16c", "avx", "fma")  # those Horovod has code for
_GIB = 2**30

# Compiled, linked and run: C++17 from the language and from the library, threads as Horovod uses them.
_PROGRAM = """\
#include <optional>
#include <string>
#include <thread>
int main() {
  std::optional<std::string> word("hvdkit");
  if (auto size = word->size(); size != 6) return 1;
  std::thread([] {}).join();
  return 0;
}
"""


@dataclass(frozen=True)
class Compiler:
    """A C and C++ compiler pair that works. ``name`` is e.g. ``"gcc 12"``: family and major version."""

    cc: str
    cxx: str
    name: str


def find_compiler() -> Compiler:
    """The compiler that ``CXX`` and ``CC`` name, else ``c++`` and ``cc``, tried on a small C++17 program.

    Raises:
        HorovodBuildError: there is none, or it cannot compile, link and run C++17.
    """
    cxx = env.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    cc = env.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    for command, variable, language in ((cxx, "CXX", "C++"), (cc, "CC", "C")):
        if not command:
            raise HorovodBuildError(f"There is no {language} compiler on PATH.", fix=_PACKAGES)
        if not shutil.which(shlex.split(command)[0]):
            raise HorovodBuildError(f"The compiler that {variable}={command} names does not exist.", fix=_PACKAGES)
    _try(shlex.split(cxx))
    return Compiler(cc, cxx, _name(shlex.split(cxx)))


def _try(cxx: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="hvdkit-cxx-") as folder:
        source, program = Path(folder, "try.cc"), Path(folder, "try")
        source.write_text(_PROGRAM, encoding="utf-8")
        for argv in ([*cxx, "-std=c++17", "-pthread", str(source), "-o", str(program)], [str(program)]):
            try:
                done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=120, check=False)
                output = (done.stderr or done.stdout).strip()
                failed = done.returncode != 0
            except (OSError, subprocess.TimeoutExpired) as error:
                failed, output = True, str(error)
            if failed:
                line = " ".join(failure.explain(output.splitlines()).lines[:1]) or output[:200]
                raise HorovodBuildError(
                    f"{' '.join(cxx)} does not compile, link and run a small C++17 program: {line}",
                    fix=_PACKAGES,
                )


def _name(cxx: list[str]) -> str:
    def answer(option: str) -> str:
        done = subprocess.run([*cxx, option], capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip()

    family = "clang" if "clang" in answer("--version") else "gcc"
    return f"{family} {answer('-dumpversion').partition('.')[0]}"


def find_generator() -> str:
    """CMake's generator: make where there is one, else ninja, which comes as a wheel."""
    return "Unix Makefiles" if shutil.which("make") or shutil.which("gmake") else "Ninja"


def cpu_flags() -> tuple[str, ...]:
    """This processor's compiler flags, as far as Horovod has code for them; the wheel fails on an older one.

    Horovod asks the compiler for the same; asked here, they are part of the cache key.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ()
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    known = set(match.group(1).split()) if match else set()
    return tuple(f"-m{feature}" for feature in _FEATURES if feature in known)


def default_jobs() -> int:
    """As many compilers at once as there are cores, but one per 2 GiB of free memory: some files need that."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min(cores, _free_memory() // (2 * _GIB)))


def _free_memory() -> int:
    """Bytes of memory left, in the container where there is one: the kernel counts the whole host's."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return free
    return min(free, max(0, limit - used))
