"""Weights of classes as people have them: from JSON and YAML, of classes that are not there, of none."""

from __future__ import annotations

import logging
import re

import keras
import numpy as np
import pandas
import pytest

import hvdkit as hvd
from hvdkit.errors import UsageError
from hvdkit.utils.numbers import by_class

Y = np.array([0, 1, 2, 1, 0, 2])
X = np.arange(12, dtype="float32").reshape(6, 2)


def _weights(class_weight, y=Y, **more) -> list[float]:
    hvd.init()
    data = hvd.data.shard(X, y, batch_size=6, shuffle=False, class_weight=class_weight, **more)
    ((batch, _),) = data.batches(0)
    return batch[2].numpy().tolist()


def _of_keras(class_weight, y=Y) -> list[float]:
    from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

    (batch,) = ArrayDataAdapter(X, y, batch_size=6, class_weight=class_weight).get_tf_dataset()
    return batch[2].numpy().tolist()


@pytest.mark.parametrize("y", [Y, Y[:, None], Y.astype("float64"), Y.astype(">i2"), np.eye(3)[Y], Y > 0])
def test_whole_numbers_are_those_of_keras(y):
    weights = {0: 2.0, 1: 0.5} if y is not Y else {0: 2.0, 1: 0.5, 2: 4}
    assert _weights(weights, y) == _of_keras(weights, y)


@pytest.mark.parametrize("key", ["1", " 1 ", "+1", 1.0, True, np.True_, np.int64(1), np.float32(1)])
def test_a_class_that_json_or_yaml_made_a_text_is_one(key):
    assert _weights({"0": 2, key: 0.5, "2": 3}) == _of_keras({0: 2, 1: 0.5, 2: 3})


def test_a_series_of_pandas_is_a_dict():
    assert by_class(pandas.Series([1.0, 2.0])) == {0: 1.0, 1: 2.0}


MISTAKES = [
    ({"0": 1, 0: 2}, "the class 0 twice"),
    ({"cat": 1.0, "dog": 2.0}, "whole numbers. Received: 'cat'"),
    ({0.5: 1.0}, "whole numbers. Received: 0.5"),
    ({None: 1.0}, "whole numbers. Received: None"),
    ({0: None}, "`class_weight[0]` must be a number. Received: class_weight[0]=None"),
    ({"0": "2"}, "`class_weight['0']` must be a number"),
    ({0: float("nan")}, "must be a number"),
    ({0: float("inf")}, "must be finite"),
    ([1.0, 2.0, 3.0], "class_weight=dict(enumerate(weights))"),
    (np.ones(3), "class_weight=dict(enumerate(weights))"),
    (3, "a dict with a weight for each class. Received: a int"),
]


@pytest.mark.parametrize(("given", "words"), MISTAKES)
def test_mistakes_are_one_sentence(given, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        _weights(given)
    with pytest.raises(UsageError, match=re.escape(words)):
        by_class(given)


def test_classes_that_are_not_there(caplog):
    with pytest.raises(UsageError, match="the classes 3, which no sample has, and none for 0, which samples have"):
        _weights({1: 1.0, 2: 2.0, 3: 3.0})  # counted from 1
    with pytest.raises(UsageError, match="the classes 7, which no sample has"):
        _weights({7: 3.0})
    assert _weights({0: 3.0}) == [3, 1, 1, 1, 3, 1]  # as Keras: the others have 1
    logger = logging.getLogger("hvdkit")
    logger.addHandler(caplog.handler)
    try:
        assert _weights({0: 1, 1: 2, 2: 3, 9: 9}) == [1, 2, 3, 2, 1, 3]
    finally:
        logger.removeHandler(caplog.handler)
    assert "the classes 9, which no sample has" in caplog.text


def test_weights_of_samples_too():
    for shape in ((6,), (6, 1), (6, 2)):
        theirs = np.arange(6 * shape[-1] if len(shape) > 1 else 6, dtype="float32").reshape(shape)
        wanted = np.array([2, 1, 1, 1, 2, 1]).reshape(6, *[1] * (len(shape) - 1)) * theirs
        assert _weights({0: 2.0}, sample_weight=theirs) == wanted.tolist()


@pytest.mark.parametrize("y", [None, [Y, Y], {"a": Y}, np.array(["a"] * 6), np.zeros((6, 2, 2)), np.full(6, 0.5)])
def test_targets_that_have_no_classes(y):
    with pytest.raises(UsageError, match=r"Class weights need"):
        _weights({0: 2.0}, y)


def test_fit_takes_texts_too_and_refuses_what_keras_would_pass_over():
    hvd.init()

    def trained(class_weight) -> np.ndarray:
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
        model.compile(hvd.DistributedOptimizer("sgd"), "sparse_categorical_crossentropy")
        model.fit(X, Y, class_weight=class_weight, verbose=0, shuffle=False)
        return model.get_weights()[0]

    np.testing.assert_array_equal(trained({"0": 3.0, "1": 1.0}), trained({0: 3.0, 1: 1.0}))
    assert (trained({"0": 3.0}) != trained(None)).any()
    for given, words in (*MISTAKES, ("balanced", "hvd.data.class_weights(y)")):
        with pytest.raises(UsageError, match=re.escape(words)):
            trained(given)
