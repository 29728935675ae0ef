"""The world this process is in: who started it, which engine it talks through, which rank it is."""

from __future__ import annotations

from typing import Any

from hvdkit.comm.engine import Engine
from hvdkit.comm.engines import choose_engine
from hvdkit.comm.single import SingleEngine
from hvdkit.engines import check_algorithm
from hvdkit.engines import info as engine_info
from hvdkit.errors import LaunchError, NotInitializedError
from hvdkit.launch.identity import LaunchInfo, launch_info
from hvdkit.utils import mpi
from hvdkit.utils.log import get_logger
from hvdkit.utils.registry import import_object

_engine: Engine | None = None


def connect(
    deadline: float, comm: Any = None, process_sets: Any = None, engine: str = "auto", algorithm: str = "auto"
) -> Engine:
    """Enter the world that the launcher made, once; a second call returns the same engine.

    Args:
        deadline: seconds a rank waits for the others in one collective; 0 waits for ever.
        comm: an ``mpi4py`` communicator or a list of ranks, to be the world instead of all ranks that were launched.
        process_sets: the ``ProcessSet`` to register, or ``"dynamic"``.
        engine: a name in ``hvdkit.engines``, or ``"auto"``.
        algorithm: one of the engine's all-reduce algorithms, or ``"auto"``.

    Raises:
        HorovodMissingError: several ranks were launched that need Horovod, but there is none that loads.
        LaunchError: there is no engine for the ranks, or the world that came up has another size than the one that
            was launched.
    """
    global _engine
    if _engine is None:
        info = launch_info()
        sets = process_sets if isinstance(process_sets, str) else list(process_sets or ())
        made = SingleEngine(sets) if info.size == 1 else _connect(engine, info, algorithm, (deadline, comm, sets))
        _check_size(info, made, info.size if comm is None else _size_of(comm))
        _engine = made
    return _engine


def _connect(wanted: str, info: LaunchInfo, algorithm: str, arguments: tuple[float, Any, Any]) -> Engine:
    mpi.tune_open_mpi()
    name, why = choose_engine(wanted, info)
    check_algorithm(name, algorithm)
    # An engine without a choice of algorithms knows no such argument.
    chosen = {} if algorithm == "auto" else {"algorithm": algorithm}
    made = import_object(engine_info(name).target)(*arguments, **chosen)
    get_logger().info("engine %s: %s.", name, why.rstrip("."))
    return made


def _size_of(comm: Any) -> int:
    return comm.Get_size() if hasattr(comm, "Get_size") else len(comm)


def _check_size(info: LaunchInfo, engine: Engine, expected: int) -> None:
    """N worlds of one look like a training that works, and are N trainings of N models: refuse them."""
    if engine.size == expected:
        return
    engine.shutdown()
    if engine.name == SingleEngine.name:
        raise LaunchError(
            f"hvd.init(comm=...) names {expected} ranks, but no launcher that hvdkit knows has started this process.",
            fix="start the ranks with `hvdkit run`, horovodrun, mpirun or srun.",
        )
    entered = engine_info(engine.name)
    raise LaunchError(
        f"{info.launcher} started {info.size} ranks, but {entered.library} came up with a world of {engine.size}.",
        fix=entered.alone_fix,
        rank=info.rank,
    )


def leave() -> None:
    """Leave the world; ``connect`` may enter one again."""
    global _engine
    if _engine is not None:
        _engine.shutdown()
        _engine = None


def engine() -> Engine:
    """The engine of this world.

    Raises:
        NotInitializedError: ``hvd.init()`` has not been called.
    """
    if _engine is None:
        raise NotInitializedError("hvdkit has not been initialized.", fix="call hvd.init() first.")
    return _engine


def is_initialized() -> bool:
    """Whether ``hvd.init()`` has been called."""
    return _engine is not None


def size() -> int:
    """The number of ranks."""
    return engine().size


def rank() -> int:
    """This process' number in the world, 0 to ``size() - 1``."""
    return engine().rank


def local_size() -> int:
    """The number of ranks on this host."""
    return engine().local_size


def local_rank() -> int:
    """This process' number on its host: the index of its GPU."""
    return engine().local_rank


def cross_size() -> int:
    """The number of hosts that have a rank with this ``local_rank``."""
    return engine().cross_size


def cross_rank() -> int:
    """The number of this host among those that have a rank with this ``local_rank``."""
    return engine().cross_rank


def is_chief() -> bool:
    """Whether this is rank 0, which prints, logs and saves."""
    return engine().rank == 0


def _built(feature: str):
    def probe() -> bool:
        from hvdkit.comm.horovod import library_built

        return library_built(feature)

    probe.__name__ = f"{feature}_built"
    probe.__doc__ = f"Whether the Horovod in this environment was built with {feature.upper()}; False without Horovod."
    return probe


def _enabled(feature: str):
    def probe() -> bool:
        return engine().enabled(feature)

    probe.__name__ = f"{feature}_enabled"
    probe.__doc__ = f"Whether this world uses {feature.upper()}; False in a single process."
    return probe


gloo_built, mpi_built, nccl_built = _built("gloo"), _built("mpi"), _built("nccl")
cuda_built, rocm_built = _built("cuda"), _built("rocm")
ddl_built, ccl_built = _built("ddl"), _built("ccl")
gloo_enabled, mpi_enabled = _enabled("gloo"), _enabled("mpi")


def mpi_threads_supported() -> bool:
    """Whether MPI may be called from several threads; False if MPI is not used."""
    return engine().enabled("mpi_threads")


def start_timeline(file_path: str, mark_cycles: bool = False) -> None:
    """Start to record the engine's activity to ``file_path``, on rank 0; open the file in chrome://tracing.

    Args:
        file_path: a JSON file, which is overwritten.
        mark_cycles: with Horovod, also mark each cycle of its background thread.

    Raises:
        UsageError: the engine is Horovod, and ``HOROVOD_TIMELINE=DYNAMIC`` was not set when it started.
    """
    engine().start_timeline(str(file_path), mark_cycles)


def stop_timeline() -> None:
    """Stop the recording and close its file."""
    engine().stop_timeline()
