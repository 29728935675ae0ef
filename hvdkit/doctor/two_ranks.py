"""``python -m hvdkit.doctor.two_ranks``: what mpi4py says in a rank, asked where ``hvdkit run`` starts it with mpirun.

There alone is mpi4py what it is in a training: mpirun tells its ranks where its libraries are.
"""

from __future__ import annotations

import json


def words(*, by_mpirun: bool) -> list[str]:
    """What follows ``python``: this in two ranks of mpirun, or in one process where there is no mpirun.

    >>> words(by_mpirun=False)
    ['-m', 'hvdkit.doctor.two_ranks']
    """
    ranks = ["-m", "hvdkit", "run", "-np", "2", "--launcher", "mpirun", "--engine", "mpi"] if by_mpirun else []
    return [*ranks, "-m", "hvdkit.doctor.two_ranks"]


def main() -> None:
    """Answer on rank 0, as a stage of the doctor's probe."""
    print("hvdkit:" + json.dumps({"begin": "mpi4py"}), flush=True)  # noqa: T201  the doctor reads it
    from mpi4py import MPI

    answer = {"library": MPI.Get_library_version(), "size": MPI.COMM_WORLD.size}
    print("hvdkit:" + json.dumps({"mpi4py": answer}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
