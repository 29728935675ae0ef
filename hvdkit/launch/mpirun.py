"""``mpirun`` of Open MPI 4 and 5, and of MPICH and Intel MPI (hydra).

mpirun forwards no environment to other hosts by itself, silently: a variable that must reach every rank is named with
``-x`` (hydra: ``-genvlist``). Only names stand on the command line; mpirun sends the values over its own channel.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hvdkit.errors import LaunchError
from hvdkit.launch.launcher import Launcher, RankVariables, Tool
from hvdkit.launch.plan import RUN_DIR, RUN_ID, LaunchPlan, Request, SystemInfo, worker
from hvdkit.utils import mpi

# CUDA_VISIBLE_DEVICES is left out on purpose: it belongs to one host. `-x CUDA_VISIBLE_DEVICES` sends it anyway.
_FORWARDED = re.compile(
    r"PATH|PYTHON\w+|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|OMP_NUM_THREADS|XLA_FLAGS"
    r"|(HOROVOD|HVDKIT|TF|KERAS|NCCL|UCX)_\w+"
)

_INSTALL = "pip install 'hvdkit[mpi]', or load the cluster's MPI module"


class Mpirun(Launcher):
    """The launcher of an MPI."""

    program = "mpirun"
    rendezvous = "mpi"
    variables = (
        RankVariables(  # Open MPI
            *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        ),
        RankVariables("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
    )
    own_prefixes = ("OMPI_", "PMIX_", "PRTE_")
    reads_allocation = True
    # Only these: containers that share /tmp may have the other ids in use, by an mpirun that lives.
    leaves_sessions = ("mpirun", "mpiexec", "prterun")

    def tool(self) -> Tool | None:
        """The mpirun, with its MPI's flavour and version."""
        executable = super().tool()
        return Tool(executable.path, *mpi.identify(executable.path)) if executable else None

    def problem(self, request: Request, system: SystemInfo) -> LaunchError | None:
        """Why mpirun cannot be used here."""
        if "mpirun" in system.tools:
            return None
        return LaunchError("mpirun is not installed.", fix=_INSTALL)

    def plan(self, request: Request, system: SystemInfo, env: dict[str, str], why: str) -> LaunchPlan:
        """``mpirun -np N ... -x NAME ... python -m hvdkit.launch.worker ...``."""
        tool = system.tools["mpirun"]
        if request.interfaces and "NCCL_SOCKET_IFNAME" not in system.environ:
            env = {**env, "NCCL_SOCKET_IFNAME": ",".join(request.interfaces)}
        asked = {item.partition("=")[0] for item in request.forward}
        names = sorted(
            {name for name in system.environ if _FORWARDED.fullmatch(name)} | asked | {*env, RUN_ID, RUN_DIR}
        )
        words = _hydra(request, names) if tool.flavour in mpi.HYDRA else _open_mpi(request, system, names, tool)
        return LaunchPlan(
            launcher="mpirun",
            why=why,
            argv=(tool.path, *words, *worker(request, system)),
            np=request.np,
            env=env,
            hosts=request.hosts,
            passes_on_sigusr1=True,
        )

    def remove_session(self, pid: int, environ: Mapping[str, str]) -> None:
        """Remove the session directory of an mpirun of Open MPI 5 that was killed.

        The next mpirun that the system gives this process id would end with "The PMIx server's listener thread failed
        to start".
        """
        named = [environ.get(f"PRTE_MCA_prte_{which}tmpdir_base") for which in ("local_", "")]
        base = next(filter(None, named), tempfile.gettempdir())
        shutil.rmtree(Path(base, f"ompi.{pid}"), ignore_errors=True)


def _open_mpi(request: Request, system: SystemInfo, names: list[str], tool: Tool) -> list[str]:
    words = ["--allow-run-as-root"] if system.root else []
    words += ["-np", str(request.np)]
    if request.hosts:
        words += ["-H", ",".join(map(str, request.hosts))]
    elif system.allocated_nodes == 1 and request.np > system.cores:
        words.append("--oversubscribe")
    # Without this Open MPI pins each rank, with all its TensorFlow threads, to one core.
    words += ["--bind-to", "none", "--map-by", "slot"]
    if request.interfaces:
        # On a host with a bridge that has the same address everywhere (docker0), mpirun hangs without this.
        listed = ",".join(request.interfaces)
        words += ["--mca", "pml", "ob1", "--mca", "btl_tcp_if_include", listed]
        if tool.version.startswith("4."):
            words += ["--mca", "oob_tcp_if_include", listed]
    for name in names:
        words += ["-x", name]
    return words


def _hydra(request: Request, names: list[str]) -> list[str]:
    words = ["-np", str(request.np)]
    if request.hosts:
        words += ["-hosts", ",".join(map(str, request.hosts))]
    if request.interfaces:
        words += ["-iface", request.interfaces[0]]
    return [*words, "-genvlist", ",".join(names)]
