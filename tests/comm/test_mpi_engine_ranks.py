"""What only the direct MPI engine has to prove: order, memory, hosts, and errors where others would hang."""

from __future__ import annotations

import numpy as np
import pytest

from hvdkit.testing import run_ranks
from tests.machine import launcher_of, world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]


def _message(call) -> str:
    try:
        call()
    except Exception as error:
        return str(error)
    return "no error"


def _numbers() -> dict:
    """Some collectives, small and large, of which each result is known."""
    import hvdkit as hvd

    rank, size = hvd.rank(), hvd.size()
    large = np.arange(3_000_001, dtype=np.float32) % 97
    out = {"large": bool((hvd.allreduce(large * (rank + 1)) == large * (size + 1) / 2).all())}
    out["sum"] = hvd.allreduce(np.array([rank, 1.5]), op=hvd.Sum).tolist()
    out["mean of whole numbers"] = hvd.allreduce(np.array([rank, 5])).tolist()
    out["max"] = hvd.allreduce(np.float32([rank]), op=hvd.Max).tolist()
    out["scaled"] = hvd.allreduce(np.float64([2.0]), op=hvd.Sum, prescale_factor=0.5, postscale_factor=3.0).tolist()
    out["gathered"] = hvd.allgather(np.full(rank + 1, rank)).tolist()
    out["half"] = hvd.allreduce(np.float16([60000])).tolist()
    large_half = np.full(100_000, 3 * size, np.float16)
    scaled = [hvd.allreduce(large_half, prescale_factor=0.5, postscale_factor=f) for f in (0.0, 4.0)]
    out["scaled halves"] = [sorted(set(values.tolist())) for values in scaled]
    return out


def _check_numbers(values: list[dict]) -> None:
    n = len(values)
    for out in values:
        assert out["large"]
        assert out["sum"] == [sum(range(n)), 1.5 * n]
        assert out["mean of whole numbers"] == [sum(range(n)) // n, 5]
        assert out["max"] == [n - 1] and out["scaled"] == [3.0 * n] and out["half"] == [60000]
        assert out["scaled halves"] == [[0.0], [6.0 * n]]
        assert out["gathered"] == [r for r in range(n) for _ in range(r + 1)]


def kept_and_mixed() -> dict:
    """Results that are kept, Horovod in the same process, and ranks that do not make the same call."""
    import horovod.tensorflow as horovod
    import tensorflow as tf

    import hvdkit as hvd
    from hvdkit.comm import world as here

    out = {"engine": here.engine().name, "numbers": _numbers()}
    first = [hvd.allreduce(tf.fill([2**19], float(i + hvd.rank()))) for i in range(5)]

    @tf.function
    def several(x):
        return [hvd.allreduce(x + float(i)) for i in range(4)]

    kept = [several(tf.fill([2**19], float(hvd.rank() + k))) for k in range(3)]
    out["kept"] = [[float(t[0]), float(t[-1])] for t in first]
    out["kept in graphs"] = [[float(t[-1]) for t in step] for step in kept]

    def late(x, is_late):
        matrix = tf.fill([800, 800], x * 1e-6)
        for _ in range(20 if is_late else 0):
            matrix = tf.matmul(matrix, matrix)
        return x + 0 * matrix[0, 0]

    @tf.function
    def race(x):  # the second value is there first on rank 0, the first on rank 1
        first, second = late(x, hvd.rank() == 0), late(x + 10, hvd.rank() == 1)
        return hvd.allreduce(first), hvd.allreduce(second)

    out["race"] = [float(t) for t in race(tf.constant(1.0))]
    horovod.init()
    out["horovod"] = float(horovod.allreduce(tf.constant(float(hvd.rank())), op=horovod.Sum))
    out["after"] = float(hvd.allreduce(float(hvd.rank()), op=hvd.Sum))
    rank = hvd.rank()
    out["shapes"] = _message(lambda: hvd.allreduce(np.zeros(3 + rank, np.float32)))
    out["dtypes"] = _message(lambda: hvd.allreduce(np.zeros(3, np.float32 if rank else np.float64)))
    out["kinds"] = _message(lambda: hvd.allgather(np.zeros(3)) if rank else hvd.broadcast(np.zeros(3)))
    out["names"] = _message(lambda: hvd.allreduce(tf.zeros(3), name=f"rank{rank}"))
    out["goes on"] = float(hvd.allreduce(1.0, op=hvd.Sum))
    horovod.shutdown()
    hvd.barrier()
    return out


def test_results_are_kept_and_calls_that_differ_are_errors():
    values = run_ranks(2, kept_and_mixed, **world("mpi")).values
    _check_numbers([value["numbers"] for value in values])
    for value in values:
        assert value["engine"] == "mpi"
        assert value["kept"] == [[i + 0.5] * 2 for i in range(5)]
        assert value["kept in graphs"] == [[k + i + 0.5 for i in range(4)] for k in range(3)]
        assert value["race"] == [1.0, 11.0]
        assert value["horovod"] == value["after"] == 1.0 and value["goes on"] == 2.0
        for what, mine, theirs in (
            ("shapes", "float32 [3]", "float32 [4]"),
            ("dtypes", "float64 [3]", "float32 [3]"),
            ("kinds", "broadcast from 0", "allgather"),
            ("names", "rank0", "rank1"),
        ):
            assert "do not make the same collective" in value[what], what
            assert f"rank 0: {mine}" in value[what].replace("allreduce average, ", "").replace("allreduce average ", "")
            assert theirs in value[what].split("rank 1: ")[1]


def on_hosts(hosts: list[int]) -> dict:
    """As if each rank were on the host that ``hosts`` names."""
    import hvdkit as hvd
    from hvdkit.comm.mpi import communicator

    communicator.host_of = lambda comm: comm.Split(hosts[ranks_of_world(comm)])
    hvd.init(engine="mpi", algorithm="ring")
    out = {"where": [hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size()], **_numbers()}
    late = hvd.rank() == len(hosts) - 1
    out["differ"] = _message(lambda: hvd.allreduce(np.zeros(2 + late)))
    out["one is large"] = _message(lambda: hvd.allreduce(np.zeros(200_000 if late else 3)))
    out["other kinds"] = _message(lambda: hvd.allgather(np.zeros(3)) if late else hvd.allreduce(np.zeros(3)))
    out["wrong"] = _wrong_reductions()
    hvd.barrier()
    return out


def _wrong_reductions() -> list[str]:
    """Every algorithm, operation, dtype and size, beside what NumPy computes of all ranks' values."""
    from mpi4py import MPI

    import hvdkit as hvd
    from hvdkit.comm.engine import ReduceOp
    from hvdkit.comm.mpi.algorithms import ALGORITHMS
    from hvdkit.comm.mpi.communicator import Communicator
    from hvdkit.comm.mpi.timeout import Timeout

    joins = {"sum": np.sum, "average": np.mean, "min": np.min, "max": np.max, "product": np.prod}
    wrong, ranks = [], range(hvd.size())
    values = lambda size, dtype: [
        np.random.default_rng(17 * r + size).integers(1, 5, size).astype(dtype) + (r == 1) for r in ranks
    ]
    for algorithm in (None, *ALGORITHMS):
        ranks_of_all = Communicator(MPI.COMM_WORLD, Timeout(hvd.rank(), 60), algorithm=algorithm)
        # Less than one value for each rank; small; one piece; pieces that are not full.
        for size in (0, 1, 5, 5000, 100_001, 2_500_003):
            few = (("sum", "float32"),)
            for op, dtype in (
                few if size > 10**6 else (*few, ("average", "float32"), ("max", "int32"), ("min", "float64"))
            ):
                every = values(size, dtype)
                x = every[hvd.rank()].astype(dtype)
                made = ranks_of_all.allreduce(x, ReduceOp(op), in_place=False, what=f"{size}", check=True)
                wanted = joins[op](every, axis=0).astype(dtype)
                if not np.allclose(made, wanted, rtol=1e-6) or made.dtype != x.dtype:
                    wrong.append(f"{algorithm}, {op}, {dtype} [{size}]: {made[:3]}, not {wanted[:3]}")
                if not (x == every[hvd.rank()]).all():
                    wrong.append(f"{algorithm}, {op}, {dtype} [{size}]: what was given has changed")
            # Halves near both ends of their range: their mean has their own bits, but in a ring, which rounds each sum.
            half = [np.linspace(-60000, 6e-5, size).astype("float16") for _ in ranks]
            sent = half[hvd.rank()].astype("float32")
            made = ranks_of_all.allreduce(sent, ReduceOp.AVERAGE, in_place=True, what="halves", as_float16=True)
            near = np.allclose(made, half[0], 2e-3, 2e-7) if algorithm == "ring" else (made == half[0]).all()
            if not near or not (made == made.astype("float16")).all():
                wrong.append(f"{algorithm}, halves [{size}]: {made[-3:]}, not {half[0][-3:]}")
    return wrong


def ranks_of_world(comm) -> int:
    from mpi4py import MPI

    return MPI.COMM_WORLD.rank


@pytest.mark.parametrize(
    ("hosts", "where"),
    [
        ([0, 0, 1], [[0, 2, 0, 2], [1, 2, 0, 1], [0, 1, 1, 2]]),
        ([0, 0, 1, 1], [[0, 2, 0, 2], [1, 2, 0, 2], [0, 2, 1, 2], [1, 2, 1, 2]]),
        ([0, 1, 2], [[0, 1, r, 3] for r in range(3)]),
    ],
)
def test_several_hosts(hosts, where):
    values = run_ranks(len(hosts), on_hosts, hosts, launcher=launcher_of("mpirun", "mpi"), init=False).values
    _check_numbers(values)
    assert [value["where"] for value in values] == where
    for value in values:
        assert "do not make the same collective" in value["differ"] and "[3]" in value["differ"]
        assert "[3]" in value["one is large"] and "[200000]" in value["one is large"]
        assert "allgather" in value["other kinds"] and "allreduce" in value["other kinds"]
        assert value["wrong"] == []


def test_what_can_be_asked_for_is_what_there_is():
    from hvdkit.comm import horovod
    from hvdkit.comm.mpi.algorithms import ALGORITHMS
    from hvdkit.engines import info

    assert set(info("mpi").algorithms) == {"hierarchical", *ALGORITHMS}
    assert set(info("horovod").algorithms) == set(horovod._ALGORITHMS)


def without_shared_memory() -> dict:
    """A host whose memory cannot be shared."""
    import os

    import hvdkit as hvd

    def refuse(*_):
        raise OSError("no memory")

    os.memfd_create = refuse
    hvd.init(engine="mpi")
    out = _numbers()
    hvd.barrier()
    return out


def test_without_shared_memory():
    _check_numbers(run_ranks(2, without_shared_memory, launcher=launcher_of("mpirun", "mpi"), init=False).values)


def nothing() -> None:
    """Enter the world, and leave it."""


def test_auto_says_which_and_a_wrong_choice_is_an_error():
    launcher_of("mpirun", "mpi")
    assert "engine mpi: mpirun started the ranks" in run_ranks(2, nothing, launcher="mpirun").output
    done = run_ranks(2, nothing, launcher="horovodrun", environ={"HVDKIT_ENGINE": "mpi"}, check=False)
    assert done.returncode == 1
    assert "The engine 'mpi' needs ranks that an MPI started." in done.output
    for launcher, algorithm, said in (
        ("mpirun", "tree", "The engine 'mpi' has no all-reduce algorithm 'tree'. It has: auto, hierarchical, pairwise"),
        ("horovodrun", "hierarchical", "This Horovod has no all-reduce algorithm 'hierarchical'"),
    ):
        done = run_ranks(2, nothing, launcher=launcher, environ={"HVDKIT_ALGORITHM": algorithm}, check=False)
        assert done.returncode == 1 and said in done.output, done.output
    assert run_ranks(2, nothing, launcher="horovodrun", environ={"HVDKIT_ALGORITHM": "ring"}).returncode == 0
    done = run_ranks(2, nothing, launcher="mpirun", environ={"HVDKIT_ENGINE": "mpy"}, check=False)
    assert done.returncode == 1 and "mpy" in done.output and "mpi" in done.output
