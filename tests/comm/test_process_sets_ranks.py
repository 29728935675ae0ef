"""Process sets on three real ranks: collectives, optimizers and a whole training among some of them."""

from __future__ import annotations

import numpy as np
import pytest

from hvdkit.testing import run_ranks
from tests.machine import needs

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]


def in_sets() -> dict:
    """Ranks 0 and 2 in one set, 1 in another; made at the start and, once more, on the way."""
    import keras
    import tensorflow as tf

    import hvdkit as hvd
    from tests.optim.check_common import Adding, message

    even, odd = hvd.ProcessSet([2, 0]), hvd.ProcessSet([1])
    hvd.init(process_sets=[even, odd])
    rank = hvd.rank()
    out = {"even": [even.ranks, even.size(), even.rank(), even.included()], "ids": [even.process_set_id is not None]}
    ours = even if even.included() else odd
    mine = np.float32([rank, 1.0])
    out["allreduce"] = hvd.allreduce(mine, process_set=ours).tolist()
    out["grouped"] = [a.tolist() for a in hvd.grouped_allreduce([mine, mine[:1]], op=hvd.Sum, process_set=ours)]
    out["allgather"] = hvd.allgather(mine, process_set=ours).tolist()
    out["broadcast"] = hvd.broadcast(mine, ours.ranks[-1], process_set=ours).tolist()
    out["object"] = hvd.allgather_object({"rank": rank}, process_set=ours)
    out["from root"] = hvd.broadcast_object([rank], ours.ranks[-1], process_set=ours)
    out["alltoall"] = hvd.alltoall(np.arange(2.0) + rank if even.included() else mine, process_set=ours).tolist()
    out["reducescatter"] = hvd.reducescatter(np.ones(2, np.float32), op=hvd.Sum, process_set=ours).tolist()
    hvd.barrier(ours)
    out["outside"] = message(lambda: None if even.included() else hvd.allreduce(mine, process_set=even))
    out["bad root"] = message(lambda: hvd.broadcast(mine, 1, process_set=even)) if even.included() else ""

    optimizer = hvd.DistributedOptimizer(Adding(), process_set=even)
    x = keras.Variable([0.0])
    optimizer.apply_gradients([(tf.constant([float(rank)]), x)])
    out["optimizer"] = x.numpy().tolist()

    # Two trainings at once, of unequal length: {0, 2} train one model, 1 trains another by itself.
    keras.utils.set_random_seed(rank)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), process_set=even), "mse")
    hvd.broadcast_variables(model.weights, 0, process_set=even) if even.included() else None
    rng = np.random.default_rng(rank)
    rows = 16 if even.included() else 40
    history = model.fit(rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2)), batch_size=8, epochs=2, verbose=0)
    out["epochs"] = len(history.history["loss"])
    out["sha"] = hvd.assert_equal_weights(model, process_set=ours)
    out["dynamic"] = message(lambda: hvd.add_process_set([0, 1]))
    hvd.barrier()
    return out


def made_on_the_way() -> dict:
    """Sets that come and go."""
    import hvdkit as hvd
    from tests.optim.check_common import message

    hvd.init(process_sets="dynamic")
    mine = np.float32([hvd.rank()])
    pair = hvd.add_process_set([0, 1])
    out = {"sum": hvd.allreduce(mine, op=hvd.Sum, process_set=pair).tolist() if pair.included() else None}
    out["twice"] = message(lambda: hvd.add_process_set([1, 0]))
    out["beyond"] = message(lambda: hvd.add_process_set([0, 7]))
    out["removed"] = [hvd.remove_process_set(pair), hvd.remove_process_set(pair)]
    out["gone"] = message(lambda: hvd.allreduce(mine, process_set=pair)) if hvd.rank() < 2 else ""
    again = hvd.add_process_set(hvd.ProcessSet([1, 0]))
    out["again"] = hvd.allreduce(mine, op=hvd.Sum, process_set=again).tolist() if again.included() else None
    out["global"] = hvd.remove_process_set(hvd.global_process_set)
    hvd.barrier()
    return out


@pytest.fixture(scope="module")
def sets():
    return run_ranks(3, in_sets, init=False).values


def test_what_a_set_knows(sets):
    assert [value["even"] for value in sets] == [[[0, 2], 2, 0, True], [[0, 2], 2, -1, False], [[0, 2], 2, 1, True]]


def test_collectives(sets):
    for rank in (0, 2):
        value = sets[rank]
        assert value["allreduce"] == [1.0, 1.0]
        assert value["grouped"] == [[2.0, 2.0], [2.0]]
        assert value["allgather"] == [0.0, 1.0, 2.0, 1.0]
        assert value["broadcast"] == [2.0, 1.0]
        assert value["object"] == [{"rank": 0}, {"rank": 2}]
        assert value["from root"] == [2]
        assert value["alltoall"] == ([0.0, 2.0] if rank == 0 else [1.0, 3.0])
        assert value["reducescatter"] == [2.0]
        assert "root_rank must be one of [0, 2]" in value["bad root"]
    alone = sets[1]
    assert alone["allreduce"] == [1.0, 1.0] and alone["allgather"] == [1.0, 1.0] and alone["object"] == [{"rank": 1}]
    assert "Rank 1 is not in ProcessSet" in alone["outside"]


def test_an_optimizer_in_a_set(sets):
    assert [value["optimizer"] for value in sets] == [[1.0], [1.0], [1.0]]


def test_trainings_in_sets(sets):
    assert [value["epochs"] for value in sets] == [2, 2, 2]
    assert sets[0]["sha"] == sets[2]["sha"] != sets[1]["sha"]


def test_sets_are_made_later_only_when_asked_for(sets):
    for value in sets:
        assert 'process_sets="dynamic"' in value["dynamic"]


def test_dynamic_sets():
    for rank, value in enumerate(run_ranks(3, made_on_the_way, init=False).values):
        assert value["sum"] == value["again"] == ([1.0] if rank < 2 else None)
        assert "cannot be created" in value["twice"]
        assert "not in this world of 3" in value["beyond"]
        assert value["removed"] == [True, False]
        assert "is not registered" in value["gone"] or rank == 2
        assert value["global"] is False


def by_communicators() -> dict:
    """The world and a set of it, each made of an mpi4py communicator."""
    from mpi4py import MPI

    import hvdkit as hvd

    world = MPI.COMM_WORLD.Dup()
    alone = hvd.ProcessSet(world.Split(color=world.rank))
    hvd.init(comm=world, process_sets=[alone])
    mine = np.float32([hvd.rank()])
    out = {
        "size": hvd.size(),
        "sum": hvd.allreduce(mine, op=hvd.Sum).tolist(),
        "alone": hvd.allreduce(mine, op=hvd.Sum, process_set=alone).tolist(),
        "ranks": alone.ranks,
    }
    hvd.barrier()  # Horovod ends for all ranks when one leaves
    return out


def test_communicators():
    needs("mpirun", "mpi")
    for rank, value in enumerate(run_ranks(2, by_communicators, launcher="mpirun", init=False).values):
        assert value == {"size": 2, "sum": [1.0], "alone": [float(rank)], "ranks": [rank]}
