"""Who gets which samples, when an epoch is gone on with in its middle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hvdkit.data.plan import common, own

SIZES = [[4], [4, 4], [4, 4, 4], [1, 1, 1], [7, 1], [3, 5, 2]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("drop", [False, True])
def test_on_as_many_ranks_the_rest_of_an_epoch_is_its_rest(sizes, drop):
    """With tails of every length, those that leave ranks without samples among them."""
    for samples in range(1, 60):
        whole = common(samples, sizes, drop=drop)
        for done in range(1, whole.steps):
            rest = common(samples, sizes, drop=drop, passed=int(whole.counts[:done].sum()))
            np.testing.assert_array_equal(rest.counts, whole.counts[done:])
            np.testing.assert_array_equal(rest.begins, whole.begins[done:])


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(SIZES[:3], 2)))
def test_on_other_ranks_every_sample_comes_once(before, after):
    for samples in range(20, 80):
        first = common(samples, before, drop=False)
        for done in range(1, first.steps):
            passed = int(first.counts[:done].sum())
            rest = common(samples, after, drop=False, passed=passed)
            spans = zip(rest.begins.ravel(), rest.counts.ravel(), strict=True)
            seen = np.concatenate([np.arange(begin, begin + count) for begin, count in spans])
            np.testing.assert_array_equal(np.sort(seen), np.arange(passed, samples))
            settled = common(samples, after, drop=False).has_empty
            assert settled or not rest.has_empty or samples - passed < len(after)


def test_what_is_split_already_goes_on_by_steps():
    whole = own([5, 2, 0], [2, 2, 2], drop=False)
    for done in range(whole.steps):
        np.testing.assert_array_equal(own([5, 2, 0], [2, 2, 2], drop=False, passed=done).counts, whole.counts[done:])
