"""What the ranks do in test_sync_batch_norm.py, and one process with a plain BatchNormalization as well."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import hvdkit as hvd

# What a row is, the rows of each rank (3 and 5), the layer's arguments, how far outputs and gradients may be off.
CASES = {
    "vector": {},
    "image": {"row": (3, 3, 4)},
    "channels first": {"row": (4, 3, 3), "axis": 1},
    "no gamma, no beta": {"center": False, "scale": False},
    "one channel": {"row": (3, 1)},
    "mask": {"row": (6, 4), "masked": 0.4},
    "mask, channels first": {"row": (4, 6), "axis": 1, "masked": 0.4},
    "rank 0 is masked": {"row": (6, 4), "masked": 0.4, "all_masked": 3},
    "rank 0 has no rows": {"rows": (0, 8)},
    "float64": {"dtype": "float64", "atol": 1e-12},
    "float16": {"dtype": "mixed_float16", "atol": 5e-3},
    "bfloat16": {"dtype": "mixed_bfloat16", "atol": 4e-2},
}
OF_THE_LAYER = ("axis", "center", "scale", "dtype")
HOW = ("eager", "graph")


def arguments(case: dict) -> dict:
    return {"momentum": 0.5, **{k: v for k, v in case.items() if k in OF_THE_LAYER}}


def data(case: dict) -> list[np.ndarray]:
    """All ranks' inputs, weights of the loss and, where there is one, mask; rank 0's rows have another mean."""
    rng = np.random.default_rng(7)
    rows, row = case.get("rows", (3, 5)), case.get("row", (4,))
    x = rng.normal(size=(sum(rows), *row)) * 2 + 1
    x[: rows[0]] += 3.0
    mask = rng.random(x.shape[:-1]) >= case.get("masked", 0.0)
    mask[: case.get("all_masked", 0)] = False
    dtype = "float64" if case.get("dtype") == "float64" else "float32"
    data = [x.astype(dtype), rng.normal(size=x.shape).astype(dtype)]
    return [*data, mask] if "masked" in case else data


def share(case: dict, rank: int) -> slice:
    rows = case.get("rows", (3, 5))
    return slice(sum(rows[:rank]), sum(rows[: rank + 1]))


def step(layer, data: list, how: str) -> dict[str, np.ndarray]:
    """One call in training: the output, the gradients of a loss that is a sum over rows, the moving statistics."""
    layer.build((None, *data[0].shape[1:]))
    for variable, value in zip(layer.trainable_variables, (1.5, 0.5), strict=False):
        variable.assign(np.full(variable.shape, value))

    def step(x, weights, mask=None):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cast(layer(x, training=True, mask=mask), x.dtype)
            loss = tf.reduce_sum(weights * (y + tf.square(y)))
        return y, tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])

    if how == "graph":
        step = tf.function(step, input_signature=[tf.TensorSpec([None, *d.shape[1:]], d.dtype) for d in data])
    y, gradients = step(*(tf.constant(d) for d in data))
    out = {"y": y.numpy(), "dx": gradients[0].numpy()}
    out |= {f"d{v.name}": g.numpy() for v, g in zip(layer.trainable_variables, gradients[1:], strict=True)}
    return out | {v.name: v.numpy() for v in layer.non_trainable_variables}


def shared(layer, data: list) -> dict[str, np.ndarray]:
    """A layer called twice in one graph, neither call waiting for the other, and differentiated twice."""
    x = tf.constant(data[0])

    @tf.function
    def step():
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            one, other = layer(x, training=True), layer(tf.square(x), training=True)
            a, b = tf.reduce_sum(one**3), tf.reduce_sum(one * other)
        slope = tape.gradient(a, x)
        with tf.name_scope("another"):  # else TensorFlow itself tells equal names apart
            return one, other, slope, tape.gradient(b, x)

    return dict(zip(("one", "other", "da", "db"), (t.numpy() for t in step()), strict=True))


def large_mean() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(8, 4)).astype("float32") + np.float32(1e4)


def train(layer, batch: int, rows: np.ndarray) -> list[np.ndarray]:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4), layer, keras.layers.ReLU(), keras.layers.Dense(2)]
    )
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(24, 5)).astype("float32"), rng.normal(size=(24, 2)).astype("float32")
    model.fit(x[rows], y[rows], batch_size=batch, epochs=1, shuffle=False, verbose=0)
    return [w.numpy() for w in model.weights]


def message(function) -> str:
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def on_two_ranks() -> dict:
    rank, out = hvd.rank(), {}
    if rank == 1:  # one model more: names must not depend on it
        hvd.SyncBatchNormalization()(np.ones((2, 2), np.float32))
    for name, case in CASES.items():
        mine = [d[share(case, rank)] for d in data(case)]
        out |= {f"{name} {how}": step(hvd.SyncBatchNormalization(**arguments(case)), mine, how) for how in HOW}
    out["shared"] = shared(hvd.SyncBatchNormalization(), [data({})[0][share({}, rank)]])
    layer = hvd.SyncBatchNormalization(momentum=0.0)
    y = layer(large_mean()[share({}, rank)], training=True)
    out["large mean"] = {"y": y.numpy(), "mean": layer.moving_mean.numpy(), "variance": layer.moving_variance.numpy()}
    out["trained"] = train(hvd.SyncBatchNormalization(), 4, np.arange(24).reshape(3, 2, 4)[:, rank].ravel())

    x, plain = data({})[0][share({}, rank)], keras.layers.BatchNormalization()
    inference = [layer(x).numpy(), layer(x, training=False).numpy()]
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    inference.append(plain(x).numpy())
    layer.trainable = False
    out["inference"] = [*inference, layer(x, training=True).numpy()]

    layer, v = hvd.SyncBatchNormalization(), tf.constant(x)
    with tf.GradientTape() as outer:
        outer.watch(v)
        with tf.GradientTape() as inner:
            inner.watch(v)
            loss = tf.reduce_sum(layer(v, training=True) ** 3)
        slope = inner.gradient(loss, v)
        penalty = tf.reduce_sum(slope**2)
    out["second derivative"] = message(lambda: outer.gradient(penalty, v))
    hvd.barrier()
    return out


def on_three_ranks() -> dict:
    """Ranks 0 and 2 share one layer's statistics, all three another's, in one graph with a gradient tape."""
    ours = hvd.ProcessSet([2, 0])
    hvd.init(process_sets=[ours])
    layers = {
        "set": hvd.SyncBatchNormalization(process_set=ours),
        "world": hvd.SyncBatchNormalization(process_set=hvd.global_process_set),
    }
    layers["loaded"] = hvd.SyncBatchNormalization.from_config(layers["set"].get_config())
    x = tf.constant(rows_of_three()[hvd.rank()])
    v = tf.Variable(1.0)

    @tf.function
    def step():
        with tf.GradientTape() as own, tf.GradientTape() as tape:
            own.watch(x)
            y = {name: layer(v * x, training=True) for name, layer in layers.items()}
            loss = {name: tf.reduce_sum(value**3) for name, value in y.items()}
            total = v * float(hvd.rank() + 1)
        reduced = hvd.DistributedGradientTape(tape, op=hvd.Sum).gradient(total, v)
        return {"y": y, "dx": own.gradient([loss["set"], loss["world"], loss["loaded"]], x), "reduced": reduced}

    out = tf.nest.map_structure(lambda t: t.numpy(), step())
    out["dx"] = tf.convert_to_tensor(out["dx"]).numpy()
    if hvd.rank() < 2:
        alone = hvd.SyncBatchNormalization(process_set=[0, 1])
        out["not alive"] = message(lambda: alone(x, training=True))
    hvd.barrier()
    return out


def rows_of_three() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(n, 4)).astype("float32") * n + n for n in (2, 4, 7)]
