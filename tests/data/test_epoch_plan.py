"""Who gets which samples, when an epoch is gone on with in its middle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.data.epoch_plan import global_plan, per_rank_plan
from hvdkit.errors import UsageError

SIZES = [[4], [4, 4], [4, 4, 4], [1, 1, 1], [7, 1], [3, 5, 2]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("drop", [False, True])
def test_on_as_many_ranks_the_rest_of_an_epoch_is_its_rest(sizes, drop):
    """With tails of every length, those that leave ranks without samples among them."""
    for samples in range(1, 60):
        whole = global_plan(samples, sizes, drop=drop)
        for done in range(1, whole.steps):
            rest = global_plan(samples, sizes, drop=drop, offset=int(whole.counts[:done].sum()))
            np.testing.assert_array_equal(rest.counts, whole.counts[done:])
            np.testing.assert_array_equal(rest.begins, whole.begins[done:])


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(SIZES[:3], 2)))
def test_on_other_ranks_every_sample_comes_once(before, after):
    for samples in range(20, 80):
        first = global_plan(samples, before, drop=False)
        for done in range(1, first.steps):
            passed = int(first.counts[:done].sum())
            rest = global_plan(samples, after, drop=False, offset=passed)
            spans = zip(rest.begins.ravel(), rest.counts.ravel(), strict=True)
            seen = np.concatenate([np.arange(begin, begin + count) for begin, count in spans])
            np.testing.assert_array_equal(np.sort(seen), np.arange(passed, samples))
            settled = global_plan(samples, after, drop=False).has_empty
            assert settled or not rest.has_empty or samples - passed < len(after)


def test_what_is_split_already_goes_on_by_steps():
    whole = per_rank_plan([5, 2, 0], [2, 2, 2], drop=False)
    for done in range(whole.steps):
        np.testing.assert_array_equal(
            per_rank_plan([5, 2, 0], [2, 2, 2], drop=False, offset=done).counts, whole.counts[done:]
        )


def test_the_old_names_of_arguments_work_and_warn():
    hvd.init()
    x = np.arange(10.0)
    with pytest.warns(DeprecationWarning, match="`uneven` of shard is deprecated .* use `drop_remainder`"):
        assert hvd.data.shard(x, batch_size=4, uneven="drop").num_batches == 2
    with pytest.warns(DeprecationWarning, match="use `presharded`"):
        assert hvd.data.shard(x, batch_size=4, already_split=True).num_batches == 3
    with pytest.raises(UsageError, match="`already_split` is the old name of `presharded`: pass one of them"):
        hvd.data.shard(x, batch_size=4, already_split=True, presharded=True)
    data = hvd.data.shard(x, batch_size=4)
    with pytest.warns(DeprecationWarning, match="MapStyleData.passed is deprecated .* use offset"):
        assert data.passed == data.offset == 0
