"""Which engine moves the bytes of this world."""

from __future__ import annotations

from hvdkit.errors import LaunchError
from hvdkit.utils import env
from hvdkit.utils.registry import Registry

ENGINES = Registry(
    "engine",
    {
        "horovod": "hvdkit.comm.horovod:HorovodEngine",
        "mpi": "hvdkit.comm.mpi.engine:MpiEngine",
    },
)


def choose(wanted: str, info: env.LaunchInfo) -> tuple[str, str]:
    """The engine's name, and why it, in a few words.

    Args:
        wanted: a name in ``ENGINES``, or ``"auto"``: ``mpi`` where an MPI started the ranks and they have no GPU,
            ``horovod`` else.
        info: who started them.

    Example:

    >>> choose("auto", env.LaunchInfo("horovodrun", size=2))
    ('horovod', 'horovodrun started the ranks')
    """
    if wanted != "auto":
        ENGINES.resolve(wanted)  # a misspelt name is the first thing to say
        return wanted, "it was asked for"
    if info.launcher == "horovodrun":
        return "horovod", "horovodrun started the ranks"
    from hvdkit.comm.mpi.library import load

    try:
        mpi = load()
    except LaunchError as error:
        return "horovod", error.what
    import tensorflow as tf

    if mpi.COMM_WORLD.allreduce(len(tf.config.list_physical_devices("GPU")), mpi.MAX):
        return "horovod", "there are GPUs"
    return "mpi", f"{info.launcher} started the ranks, and there is no GPU"
