"""What both engines must give alike: gradients of collectives wherever they are taken, factors, objects of any type."""

from __future__ import annotations

import collections
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import hvdkit as hvd
from hvdkit.grads.options import check_reduce_options
from hvdkit.grads.pipeline import GradientPipeline

Point = collections.namedtuple("Point", ["x", "y"])
ROWS = 12


def functions() -> dict[str, Callable[[Any], Any]]:
    """Losses of a variable with several collectives, that depend on each other or not; each is made a tf.function."""
    layer = hvd.SyncBatchNormalization()
    layer.build((None, 2))
    total = tf.reduce_sum
    gathered = tf.function(lambda x: total(hvd.allgather(x) ** 2))
    reduced = tf.function(lambda x: total(hvd.allreduce(x * 2.0) ** 2))

    def loop(x: Any) -> Any:
        made = tf.convert_to_tensor(x)
        for _ in tf.range(2):
            made = hvd.allreduce(made) ** 2
        return total(made)

    def branch(x: Any) -> Any:
        return tf.cond(total(x) > 0, lambda: total(hvd.allgather(x) ** 2), lambda: total(hvd.allreduce(x)))

    w = tf.Variable(2.0)
    weighed = tf.function(lambda x: total(hvd.allreduce(x * w) ** 2))
    chosen = [lambda x: weighed(x), lambda x: total(hvd.allgather(x * w) ** 2) + weighed(x * 3.0)]
    switch = tf.function(lambda x: tf.switch_case(tf.constant(1), [lambda: chosen[0](x), lambda: chosen[1](x)]))

    kinds = [
        lambda x: hvd.allreduce(x),
        lambda x: hvd.allgather(x[: hvd.rank() + 1]),
        lambda x: hvd.broadcast(x, 1),
        lambda x: hvd.alltoall(x),
        lambda x: hvd.reducescatter(x, op=hvd.Sum),
    ]
    return {
        "one allgather": lambda x: total(hvd.allgather(x) ** 2),
        "two allreduces": lambda x: total(hvd.allreduce(x * 2.0) ** 2) + total(hvd.allreduce(total(x, 0)) ** 2),
        "two layers": lambda x: total(layer(x, training=True) ** 2) + total(layer(x[:6] * 2.0, training=True) ** 3),
        "functions in it": lambda x: gathered(x) + reduced(x) + gathered(x * 3.0),
        "functions with a variable": lambda x: weighed(x) + total(hvd.allgather(x) ** 2) + weighed(x * 3.0),
        "a switch with a variable": lambda x: switch(x) + total(hvd.allgather(x) ** 2) + switch(x * 3.0),
        "a loop last": lambda x: loop(x) + total(hvd.allreduce(x * 3.0) ** 2),
        "a loop first": lambda x: total(hvd.allreduce(x * 3.0) ** 2) + loop(x),
        "a branch": lambda x: branch(x) + total(hvd.allreduce(x * 3.0) ** 2),
        "every kind": lambda x: tf.add_n([total(kind(x) ** 2) for kind in kinds]),
    }


def gradients_outside(steps: int) -> dict[str, Any]:
    """Of each function: its gradient by a tape outside of it in every step, and once by a tape inside."""
    x = tf.Variable(tf.reshape(tf.range(ROWS * 2, dtype=tf.float32), [ROWS, 2]) / 10 + hvd.rank())
    out = {}
    for name, function in functions().items():
        traced = tf.function(function)

        @tf.function
        def inside(function: Any = function) -> Any:
            with tf.GradientTape() as tape:
                loss = function(x)
            return tape.gradient(loss, x)

        expected, same = inside().numpy(), 0
        for _ in range(steps):
            with tf.GradientTape() as tape:
                loss = traced(x)
            same += np.allclose(tape.gradient(loss, x), expected, rtol=1e-4, atol=1e-4)
        out[name] = {"same": same, "gradient": expected}
    return out


def reducescatters() -> dict[str, Any]:
    """Values and gradients of ``reducescatter``, eager and in a graph."""
    rank, size = hvd.rank(), hvd.size()
    x = tf.constant(np.arange(2.0 * size + 1, dtype="float32") + rank)
    out: dict[str, Any] = {"gradient": {}, "factors": {}}
    for op in (hvd.Average, hvd.Sum):
        for where, of in (("eager", lambda f: f), ("graph", tf.function)):

            def loss(v: Any, op: Any = op) -> Any:
                rows = hvd.reducescatter(v, op=op, prescale_factor=0.5, postscale_factor=3.0)
                return tf.reduce_sum(rows) * (rank + 1.0)

            with tf.GradientTape() as tape:
                tape.watch(x)
                value = of(loss)(x)
            out["gradient"][f"{op.value}, {where}"] = tape.gradient(value, x).numpy()
    for dtype in ("uint8", "int32", "int64", "float16", "float32", "float64"):
        values = np.array([3, 4, 5, 6, 7, 8]).astype(dtype)
        for before, after in ((0.5, 1.0), (1.0, 0.5), (float(np.float32(0.3)), float(np.float32(0.7)))):
            how = {"op": hvd.Sum, "prescale_factor": before, "postscale_factor": after}
            out["factors"][f"{dtype} {before} {after}"] = [
                hvd.reducescatter(values, **how),
                hvd.allreduce(values, **how),
                hvd.grouped_allreduce([values, values + values], **how)[0],
            ]
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(tf.gather(hvd.reducescatter(x, op=hvd.Sum), [0, 1]))
    out["gathered rows"] = tape.gradient(value, x).numpy()
    out["largest"] = hvd.reducescatter(np.arange(size, dtype="float32") + rank, op=hvd.Max)
    out["halves"] = hvd.reducescatter(np.full(size, 40000, "float16"))
    out["product"] = hvd.allreduce(np.float32([2, 3]), op=hvd.Product, postscale_factor=2.0)
    out["errors"] = [
        _message(lambda: hvd.reducescatter(1.0)),
        _message(lambda: hvd.reducescatter(tf.constant(1))),
        _message(lambda: hvd.reducescatter(tf.cast(x, tf.bfloat16))),
        _message(lambda: hvd.reducescatter(x, op=hvd.Adasum)),
    ]
    return out


def slices() -> dict[str, Any]:
    """The mean of slices, by their dtype."""
    out = {}
    for dtype in ("int32", "int64", "float32", "float64"):
        scaled = tf.IndexedSlices(tf.cast([[3, 5]], dtype), tf.constant([0]), tf.constant([1, 2]))
        scaled = hvd.allreduce(scaled, op=hvd.Sum, prescale_factor=0.5, postscale_factor=2.0)
        out[f"{dtype}, scaled"] = scaled.values.numpy()
        mine = tf.IndexedSlices(tf.cast([[1, 2]], dtype), tf.constant([hvd.rank()]), tf.constant([hvd.size(), 2]))
        mean = hvd.allreduce(mine)
        out[dtype] = [mean.values.dtype.name, mean.values.numpy(), mean.indices.numpy()]
        out[f"{dtype}, sum"] = hvd.allreduce(mine, op=hvd.Sum).values.dtype.name
    return out


def objects() -> list[bool]:
    """Whether objects arrive as they left; each rank's has its rank in it."""
    ordered = collections.OrderedDict
    make = lambda rank: {
        "tuple": (rank, (1,), [2]),
        "named": Point(rank, y=np.float32(0.5)),
        "scalar": np.int64(rank),
        "class weights": {0: 1.0, 1: float(rank)},
        "set": {rank, "a"},
        "bytes": bytes([rank, 255]),
        "ordered": ordered([("b", rank), ("a", 2)]),
    }
    everyones = hvd.allgather_object(make(hvd.rank()))
    root = hvd.broadcast_object(make(hvd.rank()), root_rank=1)
    types = [type(root["tuple"]), type(root["named"]), type(root["scalar"]), type(root["ordered"])]
    return [
        everyones == [make(rank) for rank in range(hvd.size())],
        root == make(1),
        types == [tuple, Point, np.int64, ordered],
        list(root["ordered"]) == ["b", "a"],
    ]


def a_class_of_one_rank() -> list[str]:
    """What each rank says of an object whose class only rank 1 has imported; and that they go on together."""
    if hvd.rank() == 1:
        sys.modules["only_here"] = module = types.ModuleType("only_here")
        exec("import enum\nclass Colour(enum.Enum):\n    RED = 1", module.__dict__)  # noqa: S102
    red = sys.modules["only_here"].Colour.RED if hvd.rank() == 1 else None
    return [_message(lambda: hvd.broadcast_object(red, root_rank=1)), str(hvd.allgather_object(hvd.rank()))]


def bfloat16_gradients() -> list:
    """Through a broadcast and a gather of bfloat16."""
    x = tf.constant([1.0, 2.0], tf.bfloat16)
    out = []
    for moved in (lambda: hvd.broadcast(x, 1), lambda: hvd.allgather(x)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(moved()) * tf.cast(hvd.rank() + 1, tf.bfloat16)
        out.append(tf.cast(tape.gradient(loss, x), tf.float32).numpy())
    return out


def constants() -> list[list[float]]:
    """What is a constant of the graph, made in advance and read again in each step, three times."""
    pipelines = [
        GradientPipeline(check_reduce_options(op="sum", compression=compression), f"constants {compression}")
        for compression in ("none", "fp16")
    ]
    variables = [tf.Variable([0.0, 0.0]), tf.Variable([0.0])]

    @tf.function
    def step():
        moved = [
            [hvd.allreduce(tf.constant([1, 2], dtype), op=hvd.Sum)] for dtype in (tf.float16, tf.float32, tf.int32)
        ]
        moved.append(hvd.grouped_allreduce([tf.constant([1.0, 2.0]), tf.constant([5.0])], op=hvd.Sum))
        for pipeline in pipelines:  # a loss that is a sum has constants for gradients
            moved.append(pipeline([tf.ones([2]), 2 * tf.ones([1])], variables))
        return [tf.cast(tf.concat(each, 0), tf.float32) for each in moved]

    return [[float(value) for each in step() for value in each] for _ in range(3)]


def _message(call: Callable) -> str:
    try:
        call()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def all_cases(steps: int) -> dict[str, Any]:
    """Everything of this file, on a rank."""
    return {
        "gradients": gradients_outside(steps),
        "reducescatter": reducescatters(),
        "slices": slices(),
        "objects": objects(),
        "a class": a_class_of_one_rank(),
        "bfloat16": bfloat16_gradients(),
        "constants": constants(),
    }
