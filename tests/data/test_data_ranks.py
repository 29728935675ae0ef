"""Data that is shared out exactly: N ranks are one process also where the samples do not come out even."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.chaos.common import count
from tests.data import data_cases as cases
from tests.machine import world

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]
BATCH = 4
WORLDS = [("gloo", 2), ("mpi", 3)]


# In the short run a tail of one sample, which leaves ranks empty, is on 2 or on 3 ranks.
RAGGED = [(kind, "gloo", 2, "uneven") for kind in cases.KINDS]
RAGGED += [(kind, "gloo", 2, "one") for kind in cases.KINDS[:: count(2, 1)]]
RAGGED += [(kind, "mpi", 3, "one") for kind in cases.KINDS[count(1, 0) :: count(2, 1)]]


def _samples(ranks: int, tail: str) -> int:
    return 37 if tail == "uneven" else 3 * ranks * BATCH + 1


@functools.cache
def _on_ranks(engine: str, ranks: int) -> list[dict]:
    wanted = [[kind, _samples(n, tail)] for kind, its, n, tail in RAGGED if (its, n) == (engine, ranks)]
    return run_ranks(ranks, cases.train_all, wanted, BATCH, **world(engine), timeout=900).values


@functools.cache
def _alone(kind: str, n: int, ranks: int) -> dict:
    hvd.init()
    return cases.train(kind, n, ranks * BATCH)


def _close(ranks: list[dict], alone: dict, atol: float = 2e-6) -> None:
    for mine in ranks[1:]:
        for a, b in zip(ranks[0]["weights"], mine["weights"], strict=True):
            assert a.tobytes() == b.tobytes(), "the ranks differ"
    for a, b in zip(ranks[0]["weights"], alone["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(("kind", "engine", "ranks", "tail"), RAGGED)
@pytest.mark.timeout(1200)
def test_ranks_are_one_process_on_ragged_data(engine, ranks, tail, kind):
    n = _samples(ranks, tail)
    everyone, alone = [r[f"{kind} {n}"] for r in _on_ranks(engine, ranks)], _alone(kind, n, ranks)
    _close(everyone, alone)
    assert everyone[0]["iterations"] == alone["iterations"]
    if kind not in cases.OWN:
        for mine in everyone:
            for name, values in alone["history"].items():
                np.testing.assert_allclose(mine["history"][name], values, rtol=2e-5, err_msg=name)
            for name, value in alone["evaluated"].items():
                np.testing.assert_allclose(mine["evaluated"][name], value, rtol=2e-5, err_msg=name)
    rows = sorted(r for mine in everyone for r in mine["rows"])
    assert rows == sorted(list(range(n)) * cases.EPOCHS), "not every sample exactly once per epoch"
    assert all(mine["rows"] != everyone[0]["rows"] for mine in everyone[1:])


@pytest.mark.parametrize(("engine", "ranks"), WORLDS)
@pytest.mark.timeout(1200)
def test_random_splits(engine, ranks):
    """Among them a rank without any samples; each ends in seconds, with weights equal to one process'."""
    rng = random.Random(ranks)
    splits = [[0, *[rng.randrange(1, 20) for _ in range(ranks - 1)]]]
    for _ in range(count(3, 100) - 1):
        splits.append([rng.choice([0, rng.randrange(30)]) for _ in range(ranks - 1)] + [rng.randrange(1, 30)])
    everyone = run_ranks(ranks, cases.many_splits, splits, BATCH, **world(engine), timeout=1100).values
    for i, counts in enumerate(splits):
        mine = [rank[i] for rank in everyone]
        steps = [[r for rank in mine for r in rank["steps"][s]] for s in range(len(mine[0]["steps"]))]
        assert sorted(r for step in steps for r in step) == list(range(sum(counts)))
        alone = cases.on_given_batches(steps, sum(counts))
        _close(mine, alone, atol=1e-6)
        np.testing.assert_allclose([rank["loss"] for rank in mine], alone["loss"], rtol=2e-5)
        assert max(rank["seconds"] for rank in mine) < 60


@pytest.mark.parametrize(("engine", "ranks", "n"), [("gloo", 2, 200), ("mpi", 3, 55)])
@pytest.mark.timeout(900)
def test_streams(engine, ranks, n):
    """Batches whose sizes nobody knows: of 200 samples, over 16 steps; of 55, a rank has none in the last step."""
    everyone = run_ranks(ranks, cases.streams, n, **world(engine)).values
    x, y = cases.samples(n)
    steps = [list(range(i, min(i + 3 * ranks, n))) for i in range(0, n, 3 * ranks)]
    for name in ("samples", "batches", "PyDataset", "steps"):
        alone = _alone_on(steps, x, np.eye(3, dtype="float32")[y], validation=True)
        _close([rank[name] for rank in everyone], alone)
        for rank in everyone:
            for key, values in alone["history"].items():
                np.testing.assert_allclose(rank[name]["history"][key], values, rtol=2e-5, err_msg=f"{name} {key}")
    shuffled = [rank["shuffled"]["weights"] for rank in everyone]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(shuffled[0], shuffled[1], strict=True))
    assert any(a.tobytes() != b.tobytes() for a, b in zip(shuffled[0], everyone[0]["samples"]["weights"], strict=True))


def _alone_on(steps: list, x: np.ndarray, y: np.ndarray, *, validation: bool) -> dict:
    import keras

    hvd.init()
    made = cases.model("plain")

    class Given(keras.utils.PyDataset):
        def __len__(self):
            return len(steps)

        def __getitem__(self, i):
            return x[steps[i]], y[steps[i]]

    history = made.fit(Given(), epochs=cases.EPOCHS, verbose=0, shuffle=False, validation_data=Given()).history
    return {"weights": [w.numpy() for w in made.weights], "history": history}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """48 samples in one array, and in files of 5, 20, 12, 0 and 11."""
    import tensorflow as tf

    path = tmp_path_factory.mktemp("data")
    whole = np.arange(48, dtype="float32")[:, None] * np.ones((1, 4), "float32")
    np.save(path / "whole.npy", whole)
    begin = 0
    for i, n in enumerate([5, 20, 12, 0, 11]):
        part, begin = whole[begin : begin + n], begin + n
        np.savez(path / f"part-{i}.npz", x=part, y=part[:, 0])
        with tf.io.TFRecordWriter(str(path / f"part-{i}.tfrecord")) as writer:
            for row in part:
                writer.write(row.tobytes())
    (path / "broken.bin").write_bytes((path / "part-1.tfrecord").read_bytes()[:-7])
    return path


@functools.cache
def _files(engine: str, folder: str) -> list[dict]:
    return run_ranks(2, cases.files, folder, **world(engine)).values


@pytest.mark.parametrize("engine", ["gloo", "mpi"])
def test_files_are_shared_out_whole_and_by_their_samples(engine, folder):
    everyone = _files(engine, str(folder))
    for kind in ("npz", "records", "disk", "held"):
        rows = [[r for step in rank[kind] for r in step] for rank in everyone]
        assert sorted(rows[0] + rows[1]) == list(range(48)), kind
        assert len(rows[0]) == len(rows[1]) == 24 or kind in ("npz", "records")
        assert abs(len(rows[0]) - len(rows[1])) <= 5, "not balanced"
        assert rows[0] != sorted(rows[0]), "not shuffled"
    assert everyone[0]["disk"] == everyone[0]["held"]
    # scikit-learn's "balanced" of [0, 0, 1, 1, 2]
    assert everyone[0]["weights"] == {"0": 5 / 6, "1": 5 / 6, "2": 5 / 3} == everyone[1]["weights"]


@pytest.mark.parametrize("engine", ["gloo", "mpi"])
def test_mistakes_are_errors_on_every_rank(engine, folder):
    words = [
        "do not agree on their data: rank 0: samples 10; rank 1: samples 11",
        "nothing-*.npz",
        "do not fill one step of 2 ranks",
        "no samples",
        "different numbers of samples",
        "`batch_size` is missing",
        "uneven='Pad'",
        "never ends",
        "need `parse`",
        "not a complete TFRecord file",
        "hvd.data.shard(..., batch_size=...)",
        "hvd.data.shard(..., class_weight=...)",
        "predict",
    ]
    for rank in _files(engine, str(folder)):
        for error, expected in zip(rank["errors"], words, strict=True):
            assert expected in error, error


def test_slower_ranks_get_smaller_batches():
    for rank in run_ranks(2, cases.by_speed, **world("mpi")).values:
        assert sum(rank["sizes"]) == 16
        assert rank["sizes"][0] >= 10, rank["sizes"]  # three times as fast
        assert rank["same"], "measuring changed the model"


def test_on_replicas_with_metrics_and_all_callbacks():
    (alone,) = run_ranks(1, cases.on_replicas, None).values
    for rank in run_ranks(2, cases.on_replicas, ["CPU:0", "CPU:1"], **world("mpi")).values:
        _close([rank], alone)
        np.testing.assert_allclose(rank["loss"], alone["loss"], rtol=2e-5)
        np.testing.assert_allclose(rank["accuracy"], alone["accuracy"], rtol=2e-5)
        for name, value in alone["evaluated"].items():
            np.testing.assert_allclose(rank["evaluated"][name], value, rtol=2e-5)
