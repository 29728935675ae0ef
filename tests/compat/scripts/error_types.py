"""What Horovod's collectives raise, and its helpers on ranks; for two ranks."""

import horovod.tensorflow as hvd
import tensorflow as tf
from horovod.common.exceptions import HorovodInternalError
from horovod.runner.common.util.env import get_env_rank_and_size

first, second = hvd.ProcessSet([0]), hvd.ProcessSet([1])
hvd.init(process_sets=[first, second])
rank = hvd.rank()


def raises(error, function):
    try:
        function()
    except error as raised:
        assert isinstance(raised, tf.errors.OpError) and raised.message, raised
        return raised
    raise AssertionError(f"{error} was not raised")


assert get_env_rank_and_size() == (rank, 2)
differ = tf.errors.FailedPreconditionError
ones = tf.ones([2 + rank, 2 + rank])
for collective in (
    lambda: hvd.allreduce(ones),
    lambda: hvd.allreduce(tf.ones([2], tf.int32 if rank else tf.float32)),
    lambda: hvd.grouped_allreduce([ones]),
    lambda: hvd.allgather(ones),
    lambda: hvd.broadcast(tf.ones([2]), rank),
    lambda: hvd.reducescatter(ones),
    lambda: hvd.alltoall(tf.ones([2, 2 + rank])),
):
    error = raises(differ, collective)
    assert "rank" in str(error).lower(), error
if hvd.mpi_enabled():  # the engine that hvdkit has itself
    assert isinstance(error, HorovodInternalError), type(error).__mro__
raises(tf.errors.InvalidArgumentError, lambda: hvd.alltoall(tf.ones([3])))
raises(tf.errors.InvalidArgumentError, lambda: hvd.allreduce(1.0, process_set=first if rank else second))
raises(tf.errors.InvalidArgumentError, lambda: hvd.broadcast(1.0, 7))

# Slices, alone and among tensors.
slices = tf.IndexedSlices(tf.constant([[1 + rank]], tf.int32), tf.constant([rank]))
mean = hvd.allreduce(slices)
assert mean.values.numpy().tolist() == [[0.5], [1.0]] and mean.indices.numpy().tolist() == [0, 1]
dense, joined = hvd.grouped_allreduce([tf.constant([1.0 + rank]), slices], op=hvd.Sum, name="both")
assert dense.numpy() == [3.0] and joined.values.numpy().tolist() == [[1], [2]]

assert int(hvd.size_op(first.process_set_id)) == 1
assert int(hvd.process_set_included_op(second.process_set_id)) == rank
variable = tf.Variable([rank])
hvd.broadcast_variables(variables=[variable], root_rank=1)
assert variable.numpy() == [1]
hvd.barrier()
print(f"done of rank {rank}: yes")
