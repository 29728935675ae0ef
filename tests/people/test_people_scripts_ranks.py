"""Training scripts as people write them: N ranks x batch b end with what one process with batch N*b ends with.

Each script runs once in each world, on samples that come out even, leave ranks unequal numbers in the last step, or
leave ranks without any (``common.TAILS``). ``HVDKIT_CHAOS=long`` runs each on all three.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.chaos.common import count
from tests.machine import world
from tests.people import on_ranks

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1200), pytest.mark.usefixtures("forked_ranks")]
WORLDS = [("gloo", 2), ("mpi", 3)]
# Losses that Keras, or the script, averages over batches and not over samples: on a ragged last step they differ.
OVER_BATCHES = {
    "masked_dict_inputs": ("kind_loss", "amount_loss"),
    "lists_and_dicts": ("kind_loss", "amount_loss"),
    "mean_tracker_of_batch_losses": ("mean_of_batches",),
}
# Full steps only. A script cannot know which of the samples that it gathers are a stand-in's.
ONLY_EVEN = ("stateful_rnn", "stateful_over_fits", "contrastive_over_ranks", "contrastive_as_gathered")


def _tails(name: str) -> list[str]:
    """Mostly the hardest; of each third script, in the short run, one of the others."""
    if name in ONLY_EVEN:
        return ["even"]
    number = list(on_ranks.SCRIPTS).index(name)
    short = ["even", "empty", "empty", "uneven", "empty", "empty"][number % 6]
    return count([short], list(on_ranks.TAILS))


WANTED = [(name, tail) for name in on_ranks.SCRIPTS for tail in _tails(name)]
# In the short run every second script is run by three ranks too.
CASES = [(*where, *case) for where in WORLDS for case in WANTED[:: 1 if where[0] == "gloo" else count(2, 1)]]


@functools.cache
def _on_ranks(engine: str, ranks: int) -> list[dict]:
    wanted = [case[2:] for case in CASES if case[:2] == (engine, ranks)]
    return run_ranks(ranks, on_ranks.everything, wanted, **world(engine), timeout=1100).values


@functools.cache
def _alone(name: str, tail: str) -> dict:
    hvd.init()
    return next(iter(on_ranks.everything([(name, tail)]).values()))


def _same_bytes(ranks: list[dict], kind: str) -> None:
    for rank, other in enumerate(ranks[1:], 1):
        for i, (a, b) in enumerate(zip(ranks[0][kind], other[kind], strict=True)):
            assert a.tobytes() == b.tobytes(), f"{kind} {i} differs between ranks 0 and {rank}"


@pytest.mark.parametrize(("engine", "ranks", "name", "tail"), CASES)
def test_script(engine, ranks, name, tail):
    alone, everyone = _alone(name, tail), [rank[f"{name} {tail}"] for rank in _on_ranks(engine, ranks)]
    raised = [f"rank {i}: {r['raised']}" for i, r in enumerate(everyone) if "raised" in r]
    assert "raised" not in alone, alone["raised"]
    assert not raised, "\n".join(raised)
    _same_bytes(everyone, "weights")
    _same_bytes(everyone, "own")
    for a, b in zip(everyone[0]["weights"], alone["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
    for rank in everyone:
        assert rank["state"].keys() == alone["state"].keys()
        for key, value in alone["state"].items():
            np.testing.assert_allclose(rank["state"][key], value, rtol=2e-5, atol=2e-6, err_msg=key)
        assert rank["history"].keys() == alone["history"].keys()
        for key, values in alone["history"].items():
            if tail == "even" or key not in OVER_BATCHES.get(name, ()):
                np.testing.assert_allclose(rank["history"][key], values, rtol=2e-5, atol=2e-6, err_msg=key)
