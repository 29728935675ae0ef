"""``hvdkit checkpoint``: what it shows, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import ml_dtypes
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.checkpoint.storage.lock import DirectoryLock
from hvdkit.checkpoint.storage.store import Store
from hvdkit.cli import main


@pytest.fixture
def store(tmp_path):
    """Steps 10 to 40, of which 20 differs from 10 in one element of one tensor."""
    store = Store(tmp_path / "store")
    for step in (10, 20, 30, 40):
        kernel = np.arange(6.0).reshape(2, 3)
        kernel[1, 2] += 0.5 * (step > 10)
        writer = store.writer(step, "run")
        writer.write("common", {"kernel": kernel, "bias": np.ones(2, ml_dtypes.bfloat16)}, {"optimizer": "adam"})
        writer.write("rank-00000", {"seed": np.array(3), **({"more": np.ones(1)} if step == 20 else {})})
        state = {"metrics": {"loss": 1 / step, "name": "x"}}
        writer.commit(["common", "rank-00000"], epoch=step // 10, world_size=1, state=state)
    return store


@pytest.fixture
def call(capsys):
    """Run the verb; its exit code, its output, and what it said of an error."""

    def run(*words):
        code = 0
        try:
            main(["checkpoint", *map(str, words)])
        except SystemExit as end:
            code = end.code
        done = capsys.readouterr()
        return code or 0, done.out, done.err

    return run


def damage(store, step):
    path = store.path(step) / "rank-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    return path


def test_ls(store, call):
    (store.path(20) / "manifest.json").write_text("{}")
    code, out, _ = call("ls", store.directory)
    lines = out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines[1:5]] == ["40", "30", "20", "10"]
    assert "loss=0.025 name=x" in lines[1] and lines[1].split()[-1] == "yes" and lines[3].split() == ["20", "NO"]
    assert str(store.path(20) / "manifest.json") in lines[5]


def test_ls_as_json(store, call):
    damage(store, 30)  # of the same length: the manifest knows nothing of it
    (store.path(20) / "common.safetensors").unlink()
    code, out, _ = call("ls", store.directory, "--json")
    rows = json.loads(out)
    assert code == 0 and [(row["step"], row["whole"]) for row in rows] == [
        (40, True),
        (30, True),
        (20, False),
        (10, True),
    ]
    assert "common.safetensors: it is missing" in rows[2]["damage"]
    assert rows[0]["epoch"] == 4 and rows[0]["world_size"] == 1 and rows[0]["metrics"]["loss"] == 0.025
    assert rows[0]["bytes"] == sum(path.stat().st_size for path in store.path(40).glob("*.safetensors"))


def test_ls_of_nothing(tmp_path, call):
    assert call("ls", tmp_path)[1] == f"{tmp_path} has no checkpoints.\n"
    assert json.loads(call("ls", tmp_path, "--json")[1]) == []
    assert call("ls", tmp_path / "missing")[0] == 2


def test_inspect(store, call):
    code, out, _ = call("inspect", store.directory)
    assert code == 0 and "step 40, epoch 4, 1 ranks" in out and '"loss": 0.025' in out
    assert "float64      [2, 3]               kernel" in out and "bfloat16     [2]" in out and '"adam"' in out
    assert "step 10," in call("inspect", store.directory, "--step", 10)[1]
    assert "step 10," in call("inspect", store.path(10))[1]
    code, _, err = call("inspect", store.directory, "--step", 11)
    assert code == 1 and "has no checkpoint of step 11" in err


def test_verify(store, call):
    code, out, _ = call("verify", store.directory)
    assert code == 0 and out.count("  ok  ") == 4
    path = damage(store, 30)
    code, out, _ = call("verify", store.directory)
    assert code == 1 and out.count("  ok  ") == 3 and str(path) in out and "step-000000030  DAMAGED" in out
    assert call("verify", store.path(30))[0] == 1
    assert call("verify", store.path(40))[0] == 0


def test_diff(store, call):
    code, out, _ = call("diff", store.directory, 10, 20)
    assert code == 0 and out.splitlines() == [
        "common kernel: 1 of 6 elements, by 0.5 at most",
        "rank-00000 more: only in step-000000020",
        "1 of 3 common tensors differ, 1 are in one of the two only.",
    ]
    assert call("diff", store.path(10), store.path(20))[1] == out
    assert call("diff", store.directory, 30, 40)[1] == "0 of 3 common tensors differ, 0 are in one of the two only.\n"
    assert call("diff", store.directory, "a", 20)[0] == 2


def test_diff_of_other_shapes_and_of_nan(tmp_path, call):
    store = Store(tmp_path)
    for step, x, y in ((1, np.zeros(2), np.array([np.nan, 1])), (2, np.zeros(3, "float32"), np.array([np.nan, 2]))):
        writer = store.writer(step, "run")
        writer.write("common", {"x": x, "y": y, "b": np.array([step == 1]), "nan": np.array([np.nan])})
        writer.commit(["common"], epoch=1, world_size=1)
    assert call("diff", tmp_path, 1, 2)[1].splitlines()[:3] == [
        "common b: 1 of 1 elements, by 1 at most",
        "common x: float64 [2] -> float32 [3]",
        "common y: 1 of 2 elements, by 1 at most",
    ]


def test_prune(store, call):
    assert call("prune", store.directory, "--keep-last", 1, "--every", 20, "--dry-run")[1] == "would remove 30, 10\n"
    assert store.steps() == [40, 30, 20, 10]
    words = ("--keep-last", 1, "--best", 1, "--monitor", "loss", "--mode", "max")
    assert call("prune", store.directory, *words)[1] == "removed 30, 20\n"
    assert store.steps() == [40, 10]
    assert call("prune", store.directory, "--keep-last", 5)[1] == "nothing to remove\n"


def test_prune_refuses_while_a_job_writes(store, call):
    with DirectoryLock(store.directory, job="17"):
        code, _, err = call("prune", store.directory, "--keep-last", 1)
    assert code == 1 and "job 17" in err and "What to do" in err
    assert store.steps() == [40, 30, 20, 10]


def test_prune_wants_to_know_how_many(store, call):
    assert call("prune", store.directory)[0] == 2
    assert call("prune", store.directory, "--keep-last", 1, "--best", 1)[0] == 1
    assert len(store.steps()) == 4


def test_export_finds_hvdkits_own_classes(tmp_path):
    """In a process that has imported none of them."""
    hvd.init()
    layers = [keras.layers.Dense(4), hvd.SyncBatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    rate = hvd.schedules.large_batch(0.1, 32, 32, 10, 1, epochs=9)
    loss = hvd.losses.SmoothSparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile(hvd.DistributedOptimizer(hvd.optim.LARS(rate)), loss)
    hvd.checkpoint.save(model, tmp_path / "runs", step=1)
    out = tmp_path / "model.keras"
    command = [sys.executable, "-m", "hvdkit", "checkpoint", "export", str(tmp_path / "runs"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = hvd.load_model(out)
    assert type(loaded.optimizer._learning_rate).__name__ == "LargeBatchSchedule"
    for mine, its in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)
