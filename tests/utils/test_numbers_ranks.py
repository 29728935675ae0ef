"""NumPy's numbers, arrays without axes and tensors are numbers wherever hvdkit takes one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from hvdkit.utils import env, numbers
from tests.machine import world
from tests.utils import number_cases as cases


@pytest.mark.dist
@pytest.mark.parametrize(("engine", "ranks"), [("gloo", 2), ("mpi", 3)])
def test_what_was_broadcast_is_a_number_on_every_rank(engine, ranks, fork_servers):
    with env.during(fork_servers.variables()):
        values = run_ranks(ranks, cases.everything, **world(engine)).values
    for rank in values:
        assert rank["different"] == {}
        for form, found in rank["resumed"].items():
            assert found == {"epochs": [1, 2], "steps": 4, "restored": ["3", "1"]}, form


def test_it_is_in_one_process():
    hvd.init()
    assert cases.taken() == {}
    assert cases.resumed("tensor")["restored"] == ["3", "1"]


NO_NUMBERS = (
    True,
    np.True_,
    np.array(True),
    np.array([3]),
    [3],
    "3",
    np.array("3"),
    b"3",
    1j,
    np.complex64(1),
    {},
    None,
)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_refused(value):
    assert numbers.plain(value) is None
    for take in (numbers.whole, numbers.real):
        with pytest.raises(hvd.errors.UsageError, match="`k` must be a"):
            take(value, "k")


def test_of_tensors_bools_those_with_axes_and_those_of_a_graph_are_no_numbers():
    import tensorflow as tf

    assert [numbers.plain(v) for v in (tf.constant(True), tf.constant([3]), tf.constant("3"))] == [None] * 3
    assert numbers.plain(tf.Variable(3)) == 3
    assert tf.function(lambda x: x if numbers.plain(x) is None else x + 1)(tf.constant(3)) == 3


@pytest.mark.parametrize("value", [3.0, -1, 11, np.float32(3), float("nan")])
def test_a_whole_number_has_a_range(value):
    with pytest.raises(hvd.errors.UsageError, match=r"`k` must be a whole number from 0 to 10\. Received: k="):
        numbers.whole(value, "k", 0, 10)


def test_nan_is_no_number():
    with pytest.raises(hvd.errors.UsageError, match="`k` must be a number"):
        numbers.real(np.float32("nan"), "k")


def test_it_imports_neither_tensorflow_nor_numpy():
    code = "import sys, hvdkit.utils.numbers; print([m for m in ('numpy', 'tensorflow') if m in sys.modules])"
    root = Path(hvd.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
