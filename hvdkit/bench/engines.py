"""The ways to move bytes that this machine has, to be compared."""

from __future__ import annotations

import importlib.util

from hvdkit.errors import LaunchError
from hvdkit.launch.found import executable, horovod_build


def here(wanted: str = "") -> dict[str, tuple[str, str]]:
    """A name for each, with its launcher and engine; the fastest first.

    Args:
        wanted: names, with commas between; "" is all there are.

    Raises:
        LaunchError: there is none of those wanted.
    """
    horovod, mpirun = horovod_build(), executable("mpirun")
    there = {
        "mpi": ("mpirun", "mpi") if mpirun and importlib.util.find_spec("mpi4py") else None,
        "gloo": ("horovodrun", "horovod") if horovod and horovod.gloo else None,
        "horovod-mpi": ("mpirun", "horovod") if horovod and horovod.mpi and mpirun else None,
    }
    names = [name.strip() for name in wanted.split(",") if name.strip()] or ["mpi", "gloo"]
    found = {name: by for name in names if (by := there.get(name))}
    if not found or (wanted and len(found) < len(names)):
        raise LaunchError(
            f"Ranks cannot be started here with {wanted or 'mpi or gloo'}. What there may be: {', '.join(there)}.",
            fix="hvdkit install-horovod (Gloo) or pip install 'hvdkit[mpi]' (MPI); hvdkit doctor says what is missing.",
        )
    return found
