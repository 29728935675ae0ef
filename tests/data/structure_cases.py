"""Samples of any kind in any structure, what plain Keras makes of them, and what all ranks together are given."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np
import scipy.sparse
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

import hvdkit as hvd
from tests.data import kind_cases

NUMBERS = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
KINDS = [
    "plain",
    "strided",
    "fortran",
    "memmap",
    "h5py",
    "tensor",
    "variable",
    "ragged",
    "sparse",
    "scipy",
    "texts",
    "matrix",
    "masked",
    "bfloat16",
]
REFUSED = ["M8[s]", "m8[s]", "g", "G", "struct", "objects", "single", "number", "text"]

# The same on every rank, and never too slow for the machine of the day.
STEADY = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@st.composite
def leaves(draw, kinds=tuple(KINDS)) -> tuple:
    """A kind of array, its dtype, byte order, the shape of a sample, and what its values come from."""
    shape = draw(st.sampled_from([(), (2,), (3, 1), (0,)]))
    kind, dtype, order = draw(st.sampled_from(kinds)), draw(st.sampled_from(NUMBERS)), draw(st.sampled_from("<>"))
    return kind, dtype, order, shape, draw(st.integers(0, 99))


def structures(leaf: st.SearchStrategy) -> st.SearchStrategy:
    names = st.sampled_from(["b", "a", "c"])
    inside = lambda part: st.one_of(
        st.lists(part, min_size=1, max_size=3),
        st.tuples(part, part),
        st.dictionaries(names, part, min_size=1, max_size=3),
    )
    return st.one_of(leaf, inside(leaf), inside(st.one_of(leaf, inside(leaf))))


def is_leaf(drawn: Any) -> bool:
    return isinstance(drawn, tuple) and isinstance(drawn[0], str)


def made(drawn: Any, n: int, folder: Path) -> Any:
    """The arrays that were drawn, each with ``n`` samples."""
    if drawn is None:
        return None
    if is_leaf(drawn):
        return _array(*drawn, n, folder)
    if isinstance(drawn, dict):
        return {key: made(part, n, folder) for key, part in drawn.items()}
    return type(drawn)(made(part, n, folder) for part in drawn)


def _array(kind: str, dtype: str, order: str, shape: tuple, seed: int, n: int, folder: Path) -> Any:
    rng = np.random.default_rng(seed)
    values = lambda *shape: (rng.integers(0, 9, shape) * (1 + 0.5j if dtype[0] == "c" else 0.5)).astype(dtype)
    array = values(n, *shape).astype(np.dtype(dtype).newbyteorder(order))
    if kind == "strided":
        return np.repeat(array, 2, axis=0)[::-2]
    if kind in ("memmap", "h5py"):
        path = tempfile.mkstemp(dir=folder)[1]
        if kind == "memmap":
            np.save(path + ".npy", array)
            return np.load(path + ".npy", mmap_mode="r")
        h5py.File(path, "w")["x"] = array
        return h5py.File(path)["x"]
    if kind in ("tensor", "variable"):
        whole = array.astype(dtype)
        return tf.constant(whole) if kind == "tensor" else tf.Variable(whole)
    if kind == "ragged":
        lengths = rng.integers(0, 3, n)
        return tf.RaggedTensor.from_row_lengths(values(lengths.sum()), lengths)
    if kind in ("sparse", "scipy"):
        dense = np.where(rng.integers(0, 2, (n, 3)), values(n, 3), np.zeros(1, dtype))
        scipys = dtype != "f2" and kind == "scipy"
        return scipy.sparse.csr_matrix(dense) if scipys else tf.sparse.from_dense(dense)
    others = {
        "plain": lambda: array,
        "fortran": lambda: np.asfortranarray(array),
        "texts": lambda: np.array(["", "ä", "ab", "long"], object)[rng.integers(0, 4, n)],
        "matrix": lambda: values(n, 2).view(np.matrix),
        "masked": lambda: np.ma.array(array),
        "bfloat16": lambda: np.real(array).astype(ml_dtypes.bfloat16),
        "struct": lambda: np.zeros(n, [("a", "f4"), ("b", "i2")]),
        "objects": lambda: np.array([None, 1, "a"], object)[rng.integers(0, 2, n)],
        "single": lambda: np.array(3.0),
        "number": lambda: 3,
        "text": lambda: "name",
    }
    return others[kind]() if kind in others else np.zeros((n, 2), kind)


def texts(batch: Any) -> list[str]:
    """Each sample of a batch, as a text: with the structure it is in, its dtypes, shapes and bits."""
    structure = str(keras.tree.map_structure(lambda _: 0, batch))
    columns = [column for leaf in keras.tree.flatten(batch) if leaf is not None for column in [_rows(leaf)]]
    return [f"{structure} {row}" for row in zip(*columns, strict=True)]


def _rows(leaf: Any) -> list[str]:
    kind = f"{type(leaf).__name__} {leaf.dtype.name} {leaf.shape[1:]}"
    if isinstance(leaf, tf.RaggedTensor):
        return [f"{kind} {row}" for row in leaf.to_list()]
    dense = (tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf).numpy()
    return [f"{kind} {row if dense.dtype == object else row.tobytes()}" for row in dense]


def of_keras(x: Any, y: Any, weight: Any, batch: int) -> list[list[str]]:
    """What plain Keras' fit would train on, batch by batch."""
    dataset = ArrayDataAdapter(x, y, weight, batch_size=batch).get_tf_dataset()
    return [texts(each) for each in dataset]


def delivered(x: Any, y: Any, weight: Any, batch: int, **how: Any) -> list[list[str]]:
    """What this rank is given, step by step."""
    data = hvd.data.shard(x, y, sample_weight=weight, batch_size=batch, shuffle=False, **how)
    return [texts(each) if weight else [] for each, weight in data.batches(0)]


def part(leaf: Any, ranks: int, rank: int) -> Any:
    """Every so manieth sample, beginning with this rank's."""
    if leaf is None or isinstance(leaf, tf.RaggedTensor):
        return None if leaf is None else leaf[rank::ranks]
    if isinstance(leaf, tf.SparseTensor):
        return tf.sparse.from_dense(tf.sparse.to_dense(leaf)[rank::ranks])
    return leaf[rank::ranks]


WEIGHTS = st.one_of(st.none(), leaves(("plain", "memmap", "tensor")).map(lambda leaf: (leaf[0], "f4", leaf[2], (), 1)))


def together(examples: int) -> dict:
    """Equal to plain Keras: the samples of all ranks in each step; and whole where each rank has its own."""
    found = {"examples": 0, "without": 0}
    everyones = lambda mine: hvd.allgather_object(mine, name="what each rank was given")

    @settings(STEADY, max_examples=examples)
    @given(structures(leaves()), st.one_of(st.none(), structures(leaves())), WEIGHTS, st.integers(1, 7))
    def run(x, y, weight, n):
        with tempfile.TemporaryDirectory() as folder:
            x, y, weight = (made(drawn, n, Path(folder)) for drawn in (x, y, weight if y is not None else None))
            wanted = of_keras(x, y, weight, 2 * hvd.size())
            mine = everyones(delivered(x, y, weight, 2))
            steps = [[text for rank in mine for text in rank[step]] for step in range(len(wanted))]
            assert steps == wanted and all(len(rank) == len(steps) for rank in mine)
            own = keras.tree.map_structure(lambda leaf: part(leaf, hvd.size(), hvd.rank()), (x, y, weight))
            mine = everyones(delivered(*own, 2, presharded=True))
            seen = [text for rank in mine for step in rank for text in step]
            assert sorted(seen) == sorted(text for step in wanted for text in step)
            found["examples"] += 1
            found["without"] += n < hvd.size()

    run()
    return found


def classes() -> dict:
    """Weights by classes of which each rank has others, and what is wrong with them on some rank."""
    rank, size = hvd.rank(), hvd.size()
    y = np.full(4 + rank, rank)
    own = {"batch_size": 2, "presharded": True, "shuffle": False}

    def weights(class_weight: Any, y: Any = y) -> Any:
        try:
            data = hvd.data.shard(np.zeros(len(y)), y, class_weight=class_weight, **own)
            return sorted({w for (*_, each), weight in data.batches(0) if weight for w in each.numpy().tolist()})
        except (hvd.errors.UsageError, hvd.errors.CommunicationError) as error:
            return f"{type(error).__name__} {error}"

    by_rank = {str(r): r + 2.0 for r in range(size)}
    return {
        "texts": weights(by_rank),
        "counted from 1": weights({r + 1: 1.0 for r in range(size)}),
        "other weights": weights(dict.fromkeys(range(size), 1.0 + rank)),
        "wrong on one": weights(by_rank if rank else {0: None}),
        "no classes on one": weights(by_rank, y if rank else np.full(4, 0.5)),
        "balanced, no classes on one": weights("balanced", y if rank else np.full(4, 0.5)),
    }


def damaged(folder: str) -> dict:
    """Files that differ between ranks, and one that is damaged, on rank 0."""
    mine = Path(folder) / f"own-{hvd.rank()}.npz"
    np.savez(mine, x=np.zeros((4, 2), "f4" if hvd.rank() else "f8"))
    found = {}
    try:
        hvd.data.shard(str(mine), batch_size=2, presharded=True)
    except hvd.errors.CommunicationError as error:
        found["own files"] = str(error)
    path = Path(folder) / f"record-{hvd.rank()}.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(4):
            writer.write(bytes([number]))
    whole = bytearray(path.read_bytes())
    whole[17 + 9] ^= 1  # the checksum of the second length
    if not hvd.rank():
        path.write_bytes(whole)
    try:
        hvd.data.shard(str(path), batch_size=2, presharded=True, parse=tf.identity)
    except hvd.errors.UsageError as error:
        found["damaged on rank 0"] = str(error)
    return found


def trained(each: int, ranks: int) -> dict:
    """A model of texts, ragged, sparse and dense tensors in a structure; a rank has no samples in the last step."""
    made = kind_cases.OfAnything()
    made.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.05)), "mse")
    n = 3 * each * ranks + 1
    x, y = kind_cases.KINDS["nested"](n), np.sin(np.arange(n))[:, None]
    data = hvd.data.shard([x, np.ones((n, 2))], y, batch_size=each * ranks // hvd.size(), seed=3)
    history = made.fit(data, epochs=2, verbose=0, callbacks=[hvd.callbacks.MetricAverageCallback()]).history
    return {"weights": [w.numpy() for w in made.weights], "loss": history["loss"]}


def everything(examples: int, folder: str) -> dict:
    trained_here = trained(2, hvd.size())
    return {**together(examples), "classes": classes(), "damaged": damaged(folder), "trained": trained_here}
