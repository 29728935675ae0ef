"""horovod.tensorflow's collectives with its own order of arguments, and a process set; for two ranks."""

import sys

import horovod.tensorflow as hvd
import tensorflow as tf

second = hvd.ProcessSet([1])
hvd.init(process_sets=[second])
rank = hvd.rank()

assert hvd.allreduce(tf.constant([1.0 + rank]), False, "", "", hvd.Compression.fp16, None, 2.0).numpy() == [6.0]
assert hvd.allreduce(1.0 + rank).numpy() == 1.5
assert [t.numpy() for t in hvd.grouped_allreduce([1.0 * rank, 2.0 * rank], op=hvd.Max, name="pair")] == [1.0, 2.0]
assert hvd.allgather([rank]).numpy().tolist() == [0, 1]
assert hvd.broadcast(rank, 1).numpy() == 1
assert hvd.alltoall(tf.constant([10 * rank, 10 * rank + 1])).numpy().tolist() == [rank, 10 + rank]
assert hvd.reducescatter(tf.constant([1.0, 2.0]), op=hvd.Sum).numpy() == [2.0 * (1 + rank)]
assert hvd.broadcast_object({"rank": rank}, 1) == {"rank": 1}
variable = tf.Variable([rank, rank])
tf.function(lambda: hvd.broadcast_variables([variable], 1))()
assert variable.numpy().tolist() == [1, 1]
if second.included():
    assert hvd.allreduce(5.0, op=hvd.Sum, process_set=second).numpy() == 5.0
# The library that moved the bytes is not what the script sees.
assert sys.modules["horovod.tensorflow"] is hvd and "horovod.common" not in sys.modules
hvd.barrier()
print(f"done of rank {rank}: yes")
