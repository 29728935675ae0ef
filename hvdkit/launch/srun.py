"""``srun`` of Slurm. hvdkit knows its ranks, and does not start any with it: that takes an allocation of its own."""

from __future__ import annotations

from hvdkit.errors import LaunchError
from hvdkit.launch.launcher import Launcher, RankVariables
from hvdkit.launch.plan import Request, SystemInfo


class Srun(Launcher):
    """Slurm's launcher, whose ranks find each other by PMIx."""

    program = "srun"
    rendezvous = "mpi"
    # SLURM_PROCID and SLURM_NTASKS also stand in a batch script that srun did not start: only a step has these.
    variables = (RankVariables("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),)
    starts_ranks = False

    def problem(self, request: Request, system: SystemInfo) -> LaunchError:
        """It is started by the user."""
        return LaunchError(
            "`hvdkit run` does not start ranks with srun.",
            fix="srun --mpi=pmix -n N python train.py, or inside the allocation hvdkit run --launcher mpirun",
        )
