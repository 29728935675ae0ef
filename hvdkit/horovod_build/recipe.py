"""The build plan as pure data. ``Recipe`` is everything that decides the binary, and so the cache key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hvdkit.horovod_build import source

#: Counted up when the way of building changes the binary. Edits of Horovod's sources count by themselves.
REVISION = f"1-{source.digest()}"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the binary: a wheel built from an equal recipe works in the place of this one.

    ``rpath`` is where the library looks for libmpi and libnccl: ``$ORIGIN/...``, relative to itself, for
    libraries inside the environment, so that one wheel serves every environment; absolute for the machine's
    own.
    """

    tensorflow: str
    tensorflow_cuda: str | None
    python: str
    machine: str
    glibc: str
    compiler: str
    cpu_flags: tuple[str, ...] = ()
    mpi: str | None = None
    nccl: str | None = None
    cuda: str | None = None
    gpu_architectures: tuple[int, ...] = ()
    rpath: tuple[str, ...] = ()
    horovod: str = source.HOROVOD
    revision: str = REVISION

    def parts(self) -> dict[str, Any]:
        """The fields by name, as JSON keeps them."""
        return json.loads(json.dumps(asdict(self)))

    def key(self) -> str:
        """The cache key: equal for equal recipes, and for no others."""
        text = json.dumps(self.parts(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def stamp(self) -> dict[str, Any]:
        """What is written into the wheel, see ``stamp.Stamp``."""
        return {"key": self.key(), "parts": self.parts()}


@dataclass(frozen=True)
class BuildPlan:
    """A recipe and where its ingredients lie on this machine. Making one starts nothing."""

    recipe: Recipe
    python: Path
    cc: str
    cxx: str
    generator: str
    jobs: int
    mpicxx: Path | None = None
    cuda_home: Path | None = None
    cuda_runtime: Path | None = None
    nccl_include: Path | None = None
    nccl_library: Path | None = None
    notes: tuple[str, ...] = ()

    def variables(self) -> dict[str, str]:
        """The environment variables that tell Horovod's build what to do."""
        recipe = self.recipe
        settings = {
            "HOROVOD_WITH_TENSORFLOW": "1",
            "HOROVOD_WITHOUT_PYTORCH": "1",
            "HOROVOD_WITHOUT_MXNET": "1",
            "HOROVOD_WITH_GLOO": "1",
            "HOROVOD_WITH_MPI" if recipe.mpi else "HOROVOD_WITHOUT_MPI": "1",
            "CC": self.cc,
            "CXX": self.cxx,
            "CMAKE_GENERATOR": self.generator,
            "CMAKE_BUILD_PARALLEL_LEVEL": str(self.jobs),
            "MAKEFLAGS": f"-j{self.jobs}",
        }
        if recipe.cpu_flags:
            settings["HOROVOD_BUILD_ARCH_FLAGS"] = " ".join(recipe.cpu_flags)
        if recipe.nccl:
            settings |= {
                "HOROVOD_GPU_OPERATIONS": "NCCL",
                "HOROVOD_NCCL_LINK": "SHARED",  # the NCCL that TensorFlow loads, not a second one
                "HOROVOD_CUDA_HOME": str(self.cuda_home),
                "HOROVOD_BUILD_CUDA_CC_LIST": ",".join(map(str, recipe.gpu_architectures)),
            }
        return settings

    def cmake(self) -> str:
        """The CMake toolchain file: what Horovod's build has no environment variable for."""
        lines = [
            # CMake would write the absolute folders of this machine's libraries into the wheel.
            "set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)",
            f'set(CMAKE_INSTALL_RPATH "{";".join(self.recipe.rpath)}")',
            "set(CMAKE_DISABLE_FIND_PACKAGE_NVTX ON)",
        ]
        # Horovod looks for nvcc even when it builds nothing for a GPU, and stops where that nvcc is broken.
        if not self.recipe.nccl:
            lines += ["set(CMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit ON)", 'set(CMAKE_CUDA_COMPILER "")']
        if self.mpicxx:
            lines.append(f'set(MPI_CXX_COMPILER "{self.mpicxx}" CACHE FILEPATH "")')
        if self.recipe.nccl:  # named outright: the wheel has no libnccl.so to be found by, only libnccl.so.2
            lines.append(f'set(NCCL_INCLUDE_DIR "{self.nccl_include}" CACHE PATH "")')
            lines.append(f'set(NCCL_LIBRARY "{self.nccl_library}" CACHE FILEPATH "")')
        if self.recipe.nccl and self.cuda_runtime:  # likewise libcudart.so
            lines.append(f'set(CUDA_CUDART "{self.cuda_runtime}" CACHE FILEPATH "")')
        return "\n".join(lines) + "\n"

    def path(self) -> list[Path]:
        """The folders that go first on PATH: Horovod's build calls ``nvcc`` by name."""
        homes = [self.cuda_home / "bin"] if self.recipe.nccl and self.cuda_home else []
        return [*homes, *([self.mpicxx.parent] if self.mpicxx else [])]

    def describe(self) -> Mapping[str, str]:
        """The components that the build uses, line by line, for people."""
        recipe = self.recipe
        build = f"CUDA {recipe.tensorflow_cuda}" if recipe.tensorflow_cuda else "CPU"
        gpus = ", ".join(f"{number // 10}.{number % 10}" for number in recipe.gpu_architectures)
        return {
            "Horovod": f"{recipe.horovod}, hvdkit's revision {recipe.revision}",
            "TensorFlow": f"{recipe.tensorflow} ({build} build)",
            "Python": f"{recipe.python} ({self.python})",
            "Machine": f"{recipe.machine}, glibc {recipe.glibc} {' '.join(recipe.cpu_flags)}".rstrip(),
            "Compiler": f"{recipe.compiler} ({self.cxx}), {self.generator}, {self.jobs} jobs",
            "Gloo": "yes",
            "MPI": f"{recipe.mpi} ({self.mpicxx})" if recipe.mpi else "no",
            "NCCL": f"{recipe.nccl} ({self.nccl_library})" if recipe.nccl else "no",
            "CUDA": f"{recipe.cuda} ({self.cuda_home}), for GPUs {gpus}" if recipe.nccl else "no",
            "Library path": ":".join(recipe.rpath) or "the system's",
        }
