"""Flat buckets: which tensors go together, and that they come back as they were."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.comm.buckets import pack, partition

SIZES = st.lists(st.tuples(st.sampled_from(["float32", "float16"]), st.one_of(st.none(), st.integers(0, 500))))


@given(SIZES, st.integers(0, 400), st.integers(1, 400))
def test_every_tensor_is_in_one_bucket_of_its_dtype(tensors, bucket_bytes, alone_from):
    made = partition(tensors, bucket_bytes, alone_from)
    assert sorted(i for bucket in made for i in bucket) == list(range(len(tensors)))
    for bucket in made:
        assert bucket == sorted(bucket)
        assert len({tensors[i][0] for i in bucket}) == 1
        if len(bucket) > 1:
            sizes = [tensors[i][1] for i in bucket]
            assert None not in sizes and max(sizes) < alone_from and sum(sizes) <= bucket_bytes


def test_tensors_come_back_in_their_places():
    shapes = [(3, 2), (4,), (), (0, 5), (200,), (7,)]
    tensors = [tf.random.normal(shape) for shape in shapes]
    packed = pack(tensors, [f"n{i}" for i in range(6)], 100, 400)
    assert packed.names == ["n0.bucket", "n4"] and packed.reusable == [True, False]
    assert [t.shape.as_list() for t in packed.tensors] == [[18], [200]]  # 72 bytes: (3, 2), (4,), (), (0, 5) and (7,)
    assert packed.tensors[1] is tensors[4]
    for before, after in zip(tensors, packed.unpack([t * 2 for t in packed.tensors]), strict=True):
        np.testing.assert_array_equal(after, before * 2)
        assert after.shape == before.shape
