"""Finding the CUDA toolkit and NCCL: on the machine, or in wheels of this environment.

TensorFlow's own wheels bring NCCL and the CUDA runtime but no compiler: ``nvidia-cuda-nvcc-cu12`` holds ptxas
and libnvvm, no nvcc. So CUDA 12's nvcc comes from a toolkit; CUDA 13's also comes as a wheel
(``nvidia-cuda-nvcc``).
"""

from __future__ import annotations

import re
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from hvdkit.utils import env
from hvdkit.utils.programs import ask

#: Compute capabilities built for, as far as nvcc knows them: V100, T4, A100, RTX 30, L4, H100, B100, RTX 50.
#: The newest goes in as PTX too, which later GPUs compile for themselves.
ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100, 120)


@dataclass(frozen=True)
class Cuda:
    """A CUDA toolkit with nvcc. ``architectures`` are the compute capabilities, times ten, to build for.

    ``runtime`` is its libcudart.so.
    """

    home: Path
    version: str
    architectures: tuple[int, ...]
    runtime: Path | None = None


@dataclass(frozen=True)
class Nccl:
    """An NCCL: the folder of nccl.h and the shared library itself (``libnccl.so.2`` in the wheel)."""

    include: Path
    library: Path
    version: str


def find_cuda(home: str | None = None, architectures: tuple[int, ...] = ()) -> Cuda | None:
    """The first toolkit of: ``home``, ``CUDA_HOME``, ``CUDA_PATH``, nvcc on PATH, /usr/local/cuda, wheels."""
    for candidate in [Path(home)] if home else _cuda_homes():
        nvcc = candidate / "bin/nvcc"
        output = ask([nvcc, "--version"]) if nvcc.is_file() else None
        version = re.search(r"release (\d+\.\d+)", output or "")
        if version:
            return Cuda(candidate, version.group(1), architectures or _architectures(nvcc), _runtime(candidate))
    return None


def find_nccl(home: str | None = None, cuda: Cuda | None = None) -> Nccl | None:
    """The first NCCL of: ``home``, ``NCCL_HOME``, the environment's wheel, the toolkit's, the system's."""
    wheel = Path(sysconfig.get_path("platlib"), "nvidia/nccl")
    named = env.get("NCCL_HOME")
    candidates = [Path(home)] if home else [Path(named)] if named else []
    if not home:
        candidates += [wheel, *([cuda.home] if cuda else []), Path("/usr/local"), Path("/usr")]
    for candidate in candidates:
        include = candidate / "include"
        version = _nccl_version(include / "nccl.h")
        library = _nccl_library(candidate)
        if version and library:
            return Nccl(include, library, version)
    return None


def _cuda_homes() -> list[Path]:
    homes = [env.get("CUDA_HOME"), env.get("CUDA_PATH")]
    nvcc = shutil.which("nvcc")
    if nvcc:
        homes.append(_home_of(nvcc))
    wheels = Path(sysconfig.get_path("platlib"), "nvidia")
    homes += ["/usr/local/cuda", *sorted(map(str, wheels.glob("cu[0-9]*")), reverse=True)]
    return [Path(home) for home in homes if home]


def _home_of(nvcc: str) -> str:
    """The toolkit an nvcc belongs to. It may be a script in another folder, so it is asked where it looks."""
    dry_run = [nvcc, "--dryrun", "-c", "-x", "cu", "/dev/null", "-o", "/dev/null"]
    top = re.search(r"^#\$ TOP=(.+)$", ask(dry_run, stderr=True) or "", re.MULTILINE)
    return str(Path(top.group(1).strip()).resolve()) if top else str(Path(nvcc).resolve().parent.parent)


def _runtime(home: Path) -> Path | None:
    """libcudart of a toolkit; the wheels have it with the version in its name only."""
    folders = (home / "lib64", home / "lib", *sorted(home.glob("targets/*/lib")))
    return next((file for folder in folders for file in sorted(folder.glob("libcudart.so*"))), None)


def _architectures(nvcc: Path) -> tuple[int, ...]:
    output = ask([nvcc, "--list-gpu-arch"]) or ""
    known = {int(number) for number in re.findall(r"compute_(\d+)\b", output)}
    return tuple(number for number in ARCHITECTURES if number in known) or tuple(sorted(known))


def _nccl_version(header: Path) -> str | None:
    try:
        text = header.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    numbers = [re.search(rf"#define\s+NCCL_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCH")]
    return ".".join(number.group(1) for number in numbers if number) if all(numbers) else None


def _nccl_library(home: Path) -> Path | None:
    multiarch = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    for folder in (home / "lib", home / "lib64", home / "lib" / multiarch):
        for name in ("libnccl.so", "libnccl.so.2"):
            if (folder / name).is_file():
                return folder / name
    return None
