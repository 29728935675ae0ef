"""What scripts take from Horovod's inner modules, one check each; run by test_compat.py as idiom_checks.py is."""

import os

import keras
import tensorflow as tf
from check_runner import check, raises, run_checks

import hvdkit

hvdkit.init()


@check
def common_util():
    from horovod.common import util

    util.check_extension("horovod.tensorflow", "HOROVOD_WITH_TENSORFLOW", __file__, "mpi_lib")
    raises(ImportError, lambda: util.check_extension("horovod.torch", "HOROVOD_WITH_PYTORCH", __file__, "mpi_lib"))
    assert util.extension_available("tensorflow", verbose=True) and not util.extension_available("mxnet")
    assert util.gloo_built(verbose=True) == hvdkit.gloo_built() and util.nccl_built() == hvdkit.nccl_built()
    assert util.gpu_available("tensorflow") == bool(tf.config.list_physical_devices("GPU"))
    assert util.split_list(list(range(7)), 3) == [[0, 1, 2], [3, 4], [5, 6]]
    assert util.num_rank_is_power_2(8) and not util.num_rank_is_power_2(0) and not util.num_rank_is_power_2(6)
    assert util.is_version_greater_equal_than("2.16", "2.9.0")
    raises(ValueError, lambda: util.is_version_greater_equal_than("2.16", "2.9"))
    assert util.is_iterable([]) and not util.is_iterable(1)
    assert util.get_extension_full_path("/a/b.py", "lib") == "/a/lib" + util.get_ext_suffix()
    util.check_installed_version("tensorflow", tf.__version__)


@check
def common_util_env():
    from horovod.common.util import env

    with env(HVDKIT_A="1", HVDKIT_B=None):
        assert os.environ["HVDKIT_A"] == "1" and "HVDKIT_B" not in os.environ
    assert "HVDKIT_A" not in os.environ


@check
def common_util_cache():
    from horovod.common.util import _cache

    calls = []
    cached = _cache(lambda x, y=0: calls.append(x) or x + y)
    assert cached(1, y=2) == cached(1, y=2) == 3 and calls == [1]


@check
def average_and_op():
    import horovod.tensorflow as hvd
    from horovod.common.util import get_average_backwards_compatibility_fun

    op_of = get_average_backwards_compatibility_fun(hvd)
    assert [op_of(None, None), op_of(None, False), op_of(hvd.Max, None)] == [hvd.Average, hvd.Sum, hvd.Max]
    raises(ValueError, lambda: hvd.handle_average_backwards_compatibility(hvd.Sum, True))


@check
def exceptions():
    from horovod.common.exceptions import HorovodInternalError, HorovodVersionMismatchError

    assert issubclass(hvdkit.errors.CommunicationError, HorovodInternalError)
    assert issubclass(HorovodInternalError, RuntimeError) and issubclass(HorovodVersionMismatchError, ImportError)


@check
def process_sets():
    from horovod.common.process_sets import ProcessSet, global_process_set

    assert ProcessSet is hvdkit.ProcessSet and global_process_set.size() == 1


@check
def tensorflow_util():
    import horovod.tensorflow as hvd
    from horovod.tensorflow.util import _cache, _executing_eagerly, _make_subgraph, refs_to_vars, vars_to_refs

    assert _executing_eagerly() and hvd.util._executing_eagerly() and hvd._executing_eagerly()
    assert not _make_subgraph(lambda: _executing_eagerly() and tf.constant(1))()
    variables = [tf.Variable(1.0), keras.Variable(2.0)]
    refs = hvd.vars_to_refs(variables)
    assert hash(refs) == hash(vars_to_refs(variables))
    assert all(a is b for a, b in zip(refs_to_vars(refs), variables, strict=True))
    calls = []
    cached = _cache(lambda x: calls.append(x) or x)
    assert cached(1) == cached(1) == 1 and calls == [1]


@check
def runner():
    from horovod.runner.common.util.env import get_env_rank_and_size
    from horovod.runner.util.threads import in_thread

    assert get_env_rank_and_size() == (0, 1)
    done = []
    in_thread(done.append, (1,)).join()
    in_thread(lambda: 1 / 0, silent=True).join()
    assert done == [1]
    assert "horovodrun" in str(raises(ImportError, lambda: __import__("horovod.runner.launch")))


@check
def python_parts_of_the_library():
    """Where Horovod is installed, its data service is its own module, and what that imports is hvdkit's."""
    import importlib.machinery

    if importlib.machinery.PathFinder.find_spec("horovod") is None:
        return
    import horovod.tensorflow as hvd
    from horovod.tensorflow.data import compute_service

    assert hvd.init is hvdkit.init and compute_service.hvd is hvd
    assert compute_service.TfDataServiceConfig.__module__ == "horovod.tensorflow.data.compute_service"


@check
def inside_of_keras():
    import horovod._keras as inside
    from horovod._keras import callbacks

    class Callback(callbacks.BroadcastGlobalVariablesCallbackImpl, keras.callbacks.Callback):
        def __init__(self, root_rank):
            super().__init__(keras.backend, root_rank, "")

    assert isinstance(Callback(0), hvdkit.callbacks.BroadcastGlobalVariablesCallback) and Callback(0).root_rank == 0
    warmup = callbacks.LearningRateWarmupCallbackImpl(keras.backend, 0.1, warmup_epochs=2)
    assert warmup.initial_lr == 0.1
    assert inside.allgather(keras.backend, [1.0], None).numpy() == [1.0]
    assert (
        inside.allreduce(keras.backend, 1.0, None, None, 1.0, 1.0, hvdkit.Sum, hvdkit.Compression.none).numpy() == 1.0
    )
    made = inside.create_distributed_optimizer(
        keras, keras.optimizers.SGD(0.1), None, "", "", hvdkit.Compression.none, False, 1.0, hvdkit.Average, 2
    )
    assert made.gradient_accumulation_steps == 2


@check
def best_model_checkpoint_by_position():
    import horovod.keras
    import horovod.tensorflow.keras

    old = horovod.keras.callbacks.BestModelCheckpoint("val_loss", 1, "max", 7)
    assert old.mode == "max" and old.save_freq == 7 and not old.save_weights_only
    new = horovod.tensorflow.keras.callbacks.BestModelCheckpoint("val_loss", 1, True, "max")
    assert new.save_weights_only and new.mode == "max"


@check
def broadcasts_by_name():
    import horovod.tensorflow as hvd

    variables = [tf.Variable(1.0)]
    hvd.broadcast_variables(variables=variables, root_rank=0)
    assert hvd.broadcast_(variables=variables, root_rank=0) == variables
    error = raises(RuntimeError, lambda: hvd.broadcast_global_variables(root_rank=0))
    assert isinstance(error, ValueError) and "What to do" in str(error)


@check
def slices_in_groups():
    import horovod.tensorflow as hvd

    slices = tf.IndexedSlices(tf.constant([[1, 2]], tf.uint8), tf.constant([3]))
    both = hvd.grouped_allreduce([tf.constant([4.0]), slices], op=hvd.Sum)
    assert both[0].numpy() == [4.0] and both[1].values.numpy().tolist() == [[1, 2]] and both[1].indices.numpy() == [3]
    assert hvd.allreduce(slices).values.dtype.is_floating  # a mean of whole numbers, as in Horovod
    for arguments in ({"op": hvd.Min}, {"op": hvd.Adasum}, {"prescale_factor": 0.5}, {"postscale_factor": 2.0}):
        error = raises(NotImplementedError, lambda arguments=arguments: hvd.allreduce(slices, **arguments))
        assert isinstance(error, ValueError) and "What to do" in str(error)
        raises(NotImplementedError, lambda arguments=arguments: hvd.grouped_allreduce([slices], **arguments))


@check
def sets_by_number():
    import horovod.tensorflow as hvd

    assert int(hvd.size_op(0)) == int(hvd.process_set_included_op(0)) == 1
    raises(ValueError, lambda: hvd.size_op(7))


run_checks()
