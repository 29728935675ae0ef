"""Arrays of any dtype and byte order, in any structure: equal to what plain Keras makes of them, or refused by name."""

from __future__ import annotations

import collections
import re

import keras
import numpy as np
import pandas
import pytest
import scipy.sparse
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import hvdkit as hvd
from hvdkit.errors import UsageError
from tests.data import structure_cases as cases


class Batches(keras.utils.PyDataset):
    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        return self.batches[number]


@settings(cases.STEADY, max_examples=40)
@given(
    cases.structures(cases.leaves()),
    st.one_of(st.none(), cases.structures(cases.leaves())),
    cases.WEIGHTS,
    st.integers(1, 7),
)
def test_what_is_delivered_is_what_keras_would_train_on(tmp_path_factory, x, y, weight, n):
    hvd.init()
    folder = tmp_path_factory.mktemp("arrays")
    x, y, weight = (cases.made(drawn, n, folder) for drawn in (x, y, weight if y is not None else None))
    assert cases.delivered(x, y, weight, 3) == cases.of_keras(x, y, weight, 3)


@settings(cases.STEADY, max_examples=40)
@given(cases.structures(cases.leaves((*cases.REFUSED, "plain"))), st.sampled_from("xy"))
def test_what_keras_does_not_take_is_refused_by_name(tmp_path_factory, drawn, where):
    hvd.init()
    made, good = cases.made(drawn, 3, tmp_path_factory.mktemp("arrays")), np.zeros((3, 2), "f4")
    x, y = (made, good) if where == "x" else (good, made)
    try:
        wanted = cases.of_keras(x, y, None, 3)
    except Exception:  # whatever Keras and TensorFlow raise
        wanted = None
    if isinstance(x, str):
        return  # the name of a file
    if wanted is not None:
        assert cases.delivered(x, y, None, 3) == wanted
        return
    with pytest.raises(UsageError, match=rf"`{where}\b.*(\n.*What to do)?") as error:
        cases.delivered(x, y, None, 3)
    assert error.value.fix, error.value


@pytest.mark.parametrize("kind", cases.KINDS)
def test_every_kind_in_both_byte_orders(tmp_path, kind):
    hvd.init()
    for order in "<>":  # all dtypes at once: graphs take the time
        x = [cases.made((kind, dtype, order, (2,), 3), 5, tmp_path) for dtype in cases.NUMBERS]
        assert cases.delivered(x, None, None, 3) == cases.of_keras(x, None, None, 3)


def test_texts_of_numpy_which_keras_refuses_are_texts(tmp_path):
    hvd.init()
    wanted = cases.of_keras(np.array(["a", "bé", ""], object), None, None, 3)
    for dtype in ("<U2", ">U2", np.dtypes.StringDType() if hasattr(np.dtypes, "StringDType") else "U2"):
        assert cases.delivered(np.array(["a", "bé", ""]).astype(dtype), None, None, 3) == wanted
    np.save(tmp_path / "texts.npy", np.array([b"a", "bé".encode(), b""]))
    assert cases.delivered(np.load(tmp_path / "texts.npy", mmap_mode="r"), None, None, 3) == wanted
    assert cases.delivered(tf.constant(["a", "bé", ""]), None, None, 3) == wanted


def test_a_sparse_tensor_whose_entries_are_in_no_order():
    hvd.init()
    indices, values = [[3, 0], [0, 1], [3, 1], [0, 0]], [1.0, 2.0, 3.0, 4.0]
    found = cases.delivered(tf.SparseTensor(indices, values, [4, 2]), None, None, 2)
    assert found == cases.of_keras(tf.sparse.reorder(tf.SparseTensor(indices, values, [4, 2])), None, None, 2)


def test_frames_and_series():
    hvd.init()
    frames = [
        pandas.DataFrame({"a": [1.5, 2, 3], "b": [True, False, True], "c": [1, 2, 3]}),
        pandas.DataFrame({"a": [1, 2, 3], "b": [1, 2, 3]}),
        pandas.Series([1.5, 2, 3]),
        {"p": pandas.Series([1, 2, 3]), "q": pandas.DataFrame({"a": np.zeros(3, ">f4")})},
    ]
    for x in frames:
        assert cases.delivered(x, frames[1], None, 2) == cases.of_keras(x, frames[1], None, 2)


def test_ordered_dicts_and_named_tuples():
    hvd.init()
    pair = collections.namedtuple("pair", "b a")
    for x in (
        collections.OrderedDict(b=np.zeros(3), a=np.ones(3)),
        pair(np.zeros(3), np.ones(3)),
        {"b": pair(np.zeros(3), [np.ones(3), np.zeros((3, 2))]), "a": (np.ones(3),)},
    ):
        y = keras.tree.map_structure(lambda leaf: leaf + 5, x)
        assert cases.delivered(x, y, None, 2) == cases.of_keras(x, y, None, 2)


def test_outputs_without_targets_and_weights_of_one():
    hvd.init()
    x, y = np.zeros((3, 2)), [np.ones(3), np.arange(3)]
    for targets, weights in ((y, np.arange(3.0)), (y, [np.arange(3.0), None]), ([np.ones(3), None], None)):
        assert cases.delivered(x, targets, weights, 2) == cases.of_keras(x, targets, weights, 2)


def test_batches_of_a_pydataset_in_lists_ordered_dicts_and_any_byte_order(tmp_path):
    hvd.init()
    for order in "<>":
        kinds = [kind for kind in cases.KINDS if kind != "h5py"]
        leaves = [cases.made((kind, dtype, order, (2,), 3), 3, tmp_path) for kind in kinds for dtype in ("f4", "i2")]
        ordered = collections.OrderedDict(b=[leaves[0]], a=leaves[1])
        ((found, _),) = hvd.data.shard(Batches([leaves, [ordered, leaves[2]]])).batches(0)
        assert isinstance(found, tuple) and isinstance(found[0], tuple)
        wanted = [leaf if tf.is_tensor(leaf) else np.asarray(leaf) for leaf in leaves if not hasattr(leaf, "tocoo")]
        flat = [leaf for leaf, given in zip(found[0], leaves, strict=True) if not hasattr(given, "tocoo")]
        for leaf, array in zip(flat, wanted, strict=True):
            if isinstance(array, np.ndarray) and array.dtype != object:
                np.testing.assert_array_equal(leaf.numpy(), array)
        np.testing.assert_array_equal(found[1][0]["b"][0], leaves[0])
        np.testing.assert_array_equal(found[1][0]["a"], leaves[1])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"batch_size": 2**64}, "`batch_size` must be a whole number from 1 to"),
        ({"batch_size": 0}, "`batch_size` must be a whole number from 1 to"),
        ({"buffer_size": 0}, "`buffer_size` must be a whole number from 1 to"),
        ({"buffer_size": -1}, "`buffer_size` must be a whole number from 1 to"),
        ({"buffer_size": 2**64}, "`buffer_size` must be a whole number from 1 to"),
        ({"shuffle": "batch"}, "`shuffle` must be True, False or None. Received: shuffle='batch'"),
        ({"drop_remainder": "pad"}, "`drop_remainder` must be True or False. Received: drop_remainder='pad'"),
        ({"drop_remainder": None}, "`drop_remainder` must be True or False. Received: drop_remainder=None"),
        ({"presharded": "no"}, "`presharded` must be True or False. Received: presharded='no'"),
        ({"uneven": "keep"}, '`uneven` must be "pad" or "drop"'),
        ({"parse": 3}, "`parse` must be a function"),
        ({"x": (i for i in range(3))}, "`x` is not an array: it is of type generator"),
        ({"x": {1: np.zeros(3), "a": np.zeros(3)}}, "`x` holds a dict whose keys have no order"),
        ({"x": [np.zeros(3), np.zeros(2)]}, "different numbers of samples: `x[0]` 3, `x[1]` 2"),
        ({"x": []}, "`x` contains no array of samples"),
        ({"sample_weight": np.ones(3)}, "`sample_weight` needs `y`"),
        ({"y": np.ones(3), "sample_weight": [np.ones(3)]}, "`sample_weight` must be one array, or have the structure"),
        ({"y": [np.ones(3)], "sample_weight": {"a": np.ones(3)}}, "`sample_weight` must be one array, or have the"),
        ({"y": np.ones(3), "sample_weight": [np.ones(3)], "class_weight": {1: 2}}, "`sample_weight` must be one array"),
        ({"y": np.ones(3), "sample_weight": np.ones(1), "class_weight": {1: 2}}, "different numbers of samples"),
        ({"x": scipy.sparse.coo_array(np.ones(3))}, "`x` is a sparse array with 1 axes"),
        ({"x": scipy.sparse.coo_array(np.ones((3, 2), "g"))}, "`x` is an array of float128"),
        (
            {"x": Batches([scipy.sparse.coo_array(np.ones(3))]), "batch_size": None},
            "Component [0] of the data is a sparse",
        ),
        (
            {"x": tf.data.Dataset.range(9).filter(lambda _: True), "buffer_size": 2**40},
            "`buffer_size` is 1099511627776",
        ),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(how, words):
    hvd.init()
    with pytest.raises(UsageError, match=re.escape(words)):
        hvd.data.shard(**{"x": np.zeros(3), "batch_size": 2, "shuffle": True, **how})


@pytest.mark.parametrize("no", [False, np.False_, 0, np.array(False)])
def test_every_no_is_no(no):
    hvd.init()
    data = hvd.data.shard(np.arange(50), batch_size=50, shuffle=no)
    assert [batch.numpy().tolist() for batch, _ in data.batches(0)] == [list(range(50))]


def test_a_buffer_larger_than_the_dataset_takes_no_memory():
    hvd.init()
    data = hvd.data.shard(tf.data.Dataset.range(9), batch_size=9, shuffle=True, buffer_size=2**62)
    assert sorted(next(iter(data.batches(0)))[0].numpy().tolist()) == list(range(9))


def test_flags_may_be_numpys(recwarn):
    hvd.init()
    for flag in (np.True_, np.array(True), 1):
        assert hvd.data.shard(np.zeros(3), batch_size=2, drop_remainder=flag, presharded=flag).num_batches == 1
    with pytest.raises(UsageError, match=r"`presharded` must be True or False\. Received: presharded='no'"):
        hvd.data.class_weights([0, 1], presharded="no")
