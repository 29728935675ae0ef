"""Which MPI an ``mpirun`` belongs to."""

from __future__ import annotations

import re
from pathlib import Path

from hvdkit.utils import env
from hvdkit.utils.programs import ask

# What `mpirun --version` says, by MPI; the first that matches.
_VERSIONS = (
    ("openmpi", re.compile(r"Open MPI\D*v?([\d.]+)")),
    ("openmpi", re.compile(r"OpenRTE\D*([\d.]+)")),
    ("intelmpi", re.compile(r"Intel\(R\) MPI Library(?:.*?Version)? ([\d.]+)")),
    ("mvapich", re.compile(r"MVAPICH2?\D*([\d.]+)")),
    ("mpich", re.compile(r"(?:HYDRA build details|MPICH|Version):?\s+(?:Version:\s+)?([\d.]+)")),
)
#: Those whose mpirun is hydra, with options of its own.
HYDRA = ("intelmpi", "mvapich", "mpich")


def tune_open_mpi() -> None:
    """Set what Open MPI should read when it begins, unless the user has; other MPIs do not know it.

    It sends a large message over TCP in one piece ("put" in ``btl_tcp_flags``), and an answer that the other side needs
    for its own message waits behind it: then both directions of a link are used one after the other, at half the speed.
    Cut into fragments, messages use both at once.
    """
    env.set_default("OMPI_MCA_btl_tcp_flags", "send")


def identify(mpirun: Path | str) -> tuple[str, str]:
    """Flavour and version of the MPI that an ``mpirun`` belongs to; ("unknown", "") where it does not say.

    The flavour is openmpi, mpich, intelmpi, mvapich or unknown.

    Example:

    >>> identify("/nowhere/mpirun")
    ('unknown', '')
    """
    # mpirun of Open MPI 5 needs a home and a temporary folder, nothing else of the environment.
    return parse_version(ask([mpirun, "--version"], environ=env.child(), seconds=20) or "")


def parse_version(text: str) -> tuple[str, str]:
    """Flavour and version from what ``mpirun --version`` or ``MPI_Get_library_version`` says.

    Example:

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


def same_interface(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two MPIs are of one flavour and one major version, within which MPIs keep their interface.

    Args:
        one, other: flavour and version of each.

    Example:

    >>> same_interface(("openmpi", "5.0.11"), ("openmpi", "5.0.7"))
    True
    >>> same_interface(("openmpi", "5.0.11"), ("openmpi", "4.1.4"))
    False
    """
    return one[0] == other[0] and one[1].partition(".")[0] == other[1].partition(".")[0]
