"""Scripts as people write them: N ranks are one process also where a script keeps a state of its own."""

from __future__ import annotations

import functools
import tempfile

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.machine import world
from tests.trainer import refusal_cases, script_cases

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]
WORLDS = [("gloo", 2), ("mpi", 3)]


@functools.cache
def _on_ranks(engine: str, ranks: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as directory:
        return run_ranks(ranks, script_cases.everything, directory, **world(engine), timeout=600).values


@functools.cache
def _alone() -> dict:
    hvd.init()
    with tempfile.TemporaryDirectory() as directory:
        return script_cases.everything(directory)


CASES = {
    "counters": 1e-6,
    "counters, several steps at once": 1e-6,
    "accumulation, uneven": 1e-6,
    "accumulation, empty": 1e-6,
    "held in a dict": 1e-6,
    "held in a list": 1e-6,
    "held in a sub-model": 1e-6,
    "held in a object": 1e-6,
    "swapped, saved after": 1e-6,
    "swapped, saved before": 1e-6,
    "callbacks of their own": 1e-6,
    "by hand": 1e-6,
    "a tf.Variable": 1e-6,
    "a tf.Variable that is not trained": 1e-6,
}


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.timeout(900)
def test_ranks_are_one_process(name, engine, ranks):
    everyone, alone = [rank[name] for rank in _on_ranks(engine, ranks)], _alone()[name]
    for mine in everyone:
        for part in ("weights", "others"):
            for a, b, c in zip(mine.get(part, []), everyone[0].get(part, []), alone.get(part, []), strict=True):
                assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), "the ranks differ"
                np.testing.assert_allclose(a, c, rtol=0, atol=CASES[name])


def test_the_cases_are_all_of_them():
    assert set(CASES) == set(_alone())


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("held", "callbacks"))])
def test_what_goes_on_from_a_checkpoint_is_the_same_training(name, engine, ranks):
    for mine in [*(rank[name] for rank in _on_ranks(engine, ranks)), _alone()[name]]:
        for a, b in zip(mine["resumed"], mine["weights"], strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
@pytest.mark.parametrize("name", ["swapped, saved after", "swapped, saved before"])
def test_what_is_saved_are_the_weights_of_the_training_itself(name, engine, ranks):
    """Not the averages; Keras swaps by adding and subtracting, which costs a last bit of each weight."""
    for mine in [*(rank[name] for rank in _on_ranks(engine, ranks)), _alone()[name]]:
        for a, b in zip(mine["resumed"], mine["weights"], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_what_samples_changed_is_each_ranks_own(engine, ranks):
    """A moving average of a rank's own samples stays as it was in a step for which it has none."""
    means = [rank["counters"]["mean"] for rank in _on_ranks(engine, ranks)]
    assert len(set(means)) == ranks
    x, _ = script_cases.samples()
    for rank, mean in enumerate(means):
        expected = np.float32(0)
        for _ in range(script_cases.EPOCHS):
            for step in range(5):
                whole = x[step * 12 : step * 12 + 12]
                expected = 0.9 * expected + 0.1 * whole[rank * 12 // ranks : (rank + 1) * 12 // ranks].mean()
            if rank == 0:  # the one sample that is left is rank 0's
                expected = 0.9 * expected + 0.1 * x[-1].mean()
        assert mean == pytest.approx(expected, abs=1e-5)


@functools.cache
def _refused(engine: str, ranks: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as directory:
        how = {**world(engine), "environ": {**world(engine).get("environ", {}), "HVDKIT_DEADLINE": "100"}}
        return run_ranks(ranks, refusal_cases.everything, directory, **how, timeout=600).values


REFUSED = {
    "both": ["UsageError", "mean", "changes as on the other ranks", "assigns both", "hvd.data.mark_variable"],
    "both, marked": ["no error"],
    "eager": ["UsageError", "calls", "runs eagerly", "hvd.data.mark_variable"],
    "eager, marked": ["steps 6"],
    "held by nobody": ["UsageError", "applies the optimizer Adam (", "does not hold", "self.my_optimizer"],
    "a tf.Variable that differs": [
        "CommunicationError",
        "not equal on all ranks",
        "with_variable.scale (rank",
        "trainable=False",
    ],
    "adapted apart": ["CommunicationError", "what their preprocessing layers were adapted to", "Normalization"],
    "adapted apart, broadcast": ["no error"],
    "best weights": [
        "CommunicationError",
        "not equal on all ranks after the callbacks of the end of training",
        "MetricAverageCallback before callbacks",
        "// CommunicationError",
    ],
    "backup": ["UsageError", "BackupAndRestore", "CheckpointCallback(directory) on every rank"],
    "probe": ["CommunicationError", "how many steps and epochs", "with hvd.local_training()"],
    "broadcast on rank 0": [
        "CommunicationError",
        "rank 0: BroadcastGlobalVariablesCallback: the variables of their models",
        "ConsistencyCheck: begin this training",
        "hvd.local_training()",
    ],
    "metrics on rank 0": [
        "CommunicationError",
        "rank 0: MetricAverageCallback: the metrics of an epoch",
        "ConsistencyCheck: the count of reductions",
    ],
    "other metrics": ["CommunicationError", "'mae' is missing on rank", "'mape' is missing on rank 0"],
    "objects": ["CommunicationError", "rank 0: scores", "hvd.broadcast_object"],
    "traced before": ["UsageError", "a tf.function that was traced for other data", "// no error"],
}


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.timeout(900)
def test_what_cannot_train_one_model_is_said_on_every_rank(name, engine, ranks):
    for mine in _refused(engine, ranks):
        for words in REFUSED[name]:
            assert words in mine[name], mine[name]


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_a_layer_that_keras_does_not_track_is_sent_too(engine, ranks):
    assert len({rank["adapted apart, broadcast"] for rank in _refused(engine, ranks)}) == 1


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
def test_after_shutdown_nothing_goes_on_alone(engine, ranks):
    for without, again, anew, _, left_patched in (rank["shutdown"] for rank in _refused(engine, ranks)):
        for text in (without, again):
            assert text.startswith("UsageError") and "a world that hvd.shutdown() has left" in text
        assert anew == "no error"
        assert left_patched == []
    assert len({rank["shutdown"][3] for rank in _refused(engine, ranks)}) == 1
