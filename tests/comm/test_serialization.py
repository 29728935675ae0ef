"""Objects as bytes: each comes back equal and of its own type, or is refused by name; nothing is unpickled."""

from __future__ import annotations

import collections
import enum
import io
import json
import pathlib
import pickle
import struct
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hvdkit.comm import serialization

Point = collections.namedtuple("Point", ["x", "y"])


class Best(NamedTuple):
    epoch: int
    values: dict


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Flags(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    ONE = 1


def same(a: Any, b: Any) -> bool:
    """Whether two objects are equal, of the same types, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):  # their order, too
        factories = [getattr(d, "default_factory", None) for d in (a, b)]
        return factories[0] is factories[1] and same(list(a.items()), list(b.items()))
    if isinstance(a, list | tuple | collections.deque):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, set | frozenset):
        return a == b and {type(item) for item in a} == {type(item) for item in b}
    return a == b if isinstance(a, int) else repr(a) == repr(b)  # NaN is NaN, and 0.0 is not -0.0


DTYPES = (
    arrays.scalar_dtypes() | arrays.unicode_string_dtypes() | arrays.byte_string_dtypes() | arrays.datetime64_dtypes()
    | arrays.array_dtypes(allow_subarrays=False)
)  # fmt: skip
ARRAYS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=3)))
HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary()
    | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)  # NaN is not equal to itself in a set
    | st.sampled_from([Colour.RED, Level.LOW, np.int64(3), np.float32(0.5), np.float64(2), np.bool_(True)])
    | st.sampled_from([np.str_("ü"), np.bytes_(b"\0"), range(1, 9, 2), pathlib.Path("a/b"), pathlib.PurePath("c")]),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3)
    | st.builds(Point, inner, inner),
    max_leaves=5,
)  # fmt: skip
ANYTHING = st.recursive(
    HASHABLE | ARRAYS | st.binary().map(bytearray) | st.sets(HASHABLE, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(HASHABLE, inner, max_size=3)
    | st.lists(st.tuples(HASHABLE, inner), max_size=3).map(collections.OrderedDict)
    | st.lists(inner, max_size=3).map(tuple) | st.lists(inner, max_size=3).map(lambda i: collections.deque(i, 5))
    | st.builds(Best, st.integers(), inner),
    max_leaves=10,
)  # fmt: skip


@settings(deadline=None, max_examples=150, derandomize=True)
@given(ANYTHING)
def test_what_is_sent_comes_back_equal_and_of_its_own_type(value):
    try:
        data = serialization.encode(value)
    except TypeError as error:
        assert "does not travel" in str(error)  # a dtype that NumPy's own file format changes
        return
    assert same(serialization.decode(data), value)


@pytest.mark.parametrize(
    "value",
    [
        {"__hvdkit_kind__": "tuple", "of": [1]},
        {1: 2.0, 0: 1.0},
        {np.int64(1): 2},
        {(0, 1): {"a"}},
        [10**5000, -(10**5000)],
        True,
        np.float64(0.1),
        np.array(3),
        np.ones(3, ml_dtypes.bfloat16),
        ml_dtypes.float8_e4m3fn(2),
        np.arange(6, dtype=">i4").reshape(2, 3).T,
        np.zeros((0, 3), "<U5"),
        np.datetime64("2024-01-02"),
        collections.Counter("abca"),
        collections.defaultdict(list, {1: [2]}),
        collections.defaultdict(None, {1: [2]}),
        Flags.READ | Flags.WRITE,
        Flags(0),
        Bits.ONE,
        Bits(8),
        np.zeros(2, [(f"field{i}", "<f8") for i in range(900)]),
        [1, 10**2000],
        [None, True, "a", 0.5],
        slice(1, None, 2),
        ("a\ud800", float("nan"), float("-inf"), -0.0),
    ],
)
def test_kinds_that_are_easily_changed_on_the_way(value):
    assert same(serialization.decode(serialization.encode([value])), [value])


def test_a_class_that_the_other_rank_does_not_have():
    """Nothing is made up in its place: it is refused here, or there."""
    local = collections.namedtuple("Local", ["a", "_1"], rename=True)

    class Other(enum.Enum):
        A = 1

    for value in (local(1, [2]), Other.A):
        with pytest.raises(
            TypeError, match=r"object is a (Local|Other), a class that is not found as .*top of a module"
        ):
            serialization.encode(value)
    for value, other in ((Colour.RED, b'"Shades"'), (Best(1, {}), b'"Test"')):
        data = serialization.encode(value)
        assert serialization.has_classes(data)
        with pytest.raises(TypeError, match=f"import {__name__}"):
            serialization.decode(data.replace(b'"%b"' % type(value).__name__.encode(), other))
    assert not serialization.has_classes(
        serialization.encode({"__hvdkit_kind__": "enum", "a": '"__hvdkit_kind__": "enum"'})
    )


class Mapping(dict):
    pass


class Text(str):
    __slots__ = ()


REFUSED = {
    "object": object(),
    "a kind of text": Text("a"),
    "a kind of dict": Mapping(),
    "a factory": collections.defaultdict(lambda: 3),
    "a set in a list": [1, {"x": {Text("b")}}],
    "objects": np.array([object()]),
    "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
    "function": len,
    "class": int,
}


@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_sent_is_refused_by_name(bad):
    with pytest.raises(TypeError, match=r"object\['here'\].* is an? .*(never pickled|Python objects|does not travel)"):
        serialization.encode({"here": bad})


def test_nothing_is_unpickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    text = json.dumps({"__hvdkit_kind__": "array", "of": [0, None]}).encode()
    with pytest.raises((ValueError, pickle.UnpicklingError), match=r"allow_pickle|Object arrays"):
        serialization.decode(b"".join(struct.pack("<Q", len(part)) + part for part in (text, buffer.getvalue())))
