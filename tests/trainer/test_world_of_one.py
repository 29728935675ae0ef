"""In a world of one, hvdkit is not there: the same graph, the same weights."""

from __future__ import annotations

import collections

import keras
import numpy as np
import pytest

import hvdkit as hvd


def _trained(wrap: bool, **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(1e-2, global_clipnorm=0.5, **kwargs)
    model.compile(hvd.DistributedOptimizer(optimizer, compression="fp16") if wrap else optimizer, "mse")
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model.fit(x, x.sum(1), batch_size=4, verbose=0, shuffle=False)
    return model


def _operations(model) -> collections.Counter:
    """How often each operation stands in the graph of the train step, functions inside included."""
    import tensorflow as tf

    step = tf.function(lambda x, y: model.train_step((x, y)))
    concrete = step.get_concrete_function(tf.TensorSpec((4, 3)), tf.TensorSpec((4,)))
    definition = concrete.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    return collections.Counter(node.op for node in nodes)


@pytest.mark.parametrize("kwargs", [{}, {"gradient_accumulation_steps": 2}, {"use_ema": True}])
def test_the_graph_of_a_step_is_plain_keras(kwargs):
    """What `at most 1 % slower` rests on: there is not one operation more."""
    hvd.init()
    plain, ours = _trained(False, **kwargs), _trained(True, **kwargs)
    assert _operations(ours) == _operations(plain)
    for a, b in zip(plain.get_weights(), ours.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_every_collective_gives_back_what_it_was_given():
    hvd.init()
    x = np.arange(6.0).reshape(3, 2)
    for collective in (hvd.allreduce, hvd.allgather, hvd.broadcast, hvd.reducescatter, hvd.alltoall):
        np.testing.assert_array_equal(collective(x), x)
    received, rows = hvd.alltoall(x, splits=[3])
    np.testing.assert_array_equal(received, x)
    assert rows.tolist() == [3] and hvd.allreduce(x, op=hvd.Sum, prescale_factor=2.0).sum() == 2 * x.sum()
    assert hvd.broadcast_object({"a": [1]}) == {"a": [1]} and hvd.allgather_object(None) == [None]
    hvd.barrier()


def test_a_world_that_nobody_started_is_refused():
    hvd.shutdown()
    with pytest.raises(hvd.errors.LaunchError, match=r"names 2 ranks, but no launcher"):
        hvd.init(comm=[0, 1])
    hvd.init()


def test_init_twice_and_shutdown():
    hvd.init()
    hvd.init()
    assert hvd.is_initialized() and hvd.is_chief()
    hvd.shutdown()
    assert not hvd.is_initialized()
    with pytest.raises(hvd.errors.NotInitializedError, match=r"call hvd\.init\(\) first"):
        hvd.size()
    hvd.init()
    with pytest.raises(hvd.errors.UsageError, match="deadline"):
        hvd.shutdown()
        hvd.init(deadline=-1)
    hvd.init()


_WAYS = {"averaging": hvd.DistributedOptimizer, "local": hvd.optim.LocalSGD}


@pytest.mark.parametrize("ways", [["local", "averaging"], ["averaging", "local"], ["local", "averaging", "local"]])
def test_an_optimizer_may_be_distributed_in_another_way_in_the_next_world(ways):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    for way in ways:
        hvd.init()
        _WAYS[way](optimizer)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
        optimizer.built = False  # it is compiled with a new model
        model.compile(optimizer, "mse")
        model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
        assert model.weights[0].numpy().any()
        fresh = _WAYS[way](keras.optimizers.SGD(0.1))
        assert type(optimizer) is type(fresh)  # of the way before nothing is left
        hvd.shutdown()
    hvd.init()


def test_callbacks_do_nothing_here():
    hvd.init()
    model = _trained(True)
    history = model.fit(np.ones((8, 3)), np.ones(8), verbose=0, callbacks=hvd.callbacks.defaults()).history
    assert list(history) == ["loss"]


def test_a_check_every_0_steps_is_refused():
    hvd.init()
    with pytest.raises(hvd.errors.UsageError, match="`every`"):
        hvd.callbacks.ConsistencyCheck(every=0)


@pytest.mark.parametrize(("dtype", "wide"), [("int64", "float64"), ("float64", "float64"), ("float16", "float32")])
def test_factors_have_the_precision_of_what_they_multiply(dtype, wide):
    """A tensor as an array: TensorFlow makes float32 of a number of Python's on the way to float64."""
    import tensorflow as tf

    hvd.init()
    values = np.array([3, 10**6 + 1] if dtype != "float16" else [3, 1001]).astype(dtype)
    expected = (values.astype(wide) * np.dtype(wide).type(1 / 3)).astype(dtype)
    for given in (values, tf.constant(values)):
        np.testing.assert_array_equal(np.asarray(hvd.allreduce(given, op=hvd.Sum, prescale_factor=1 / 3)), expected)
