"""SyncBatchNormalization against the oracle: a plain BatchNormalization in one process, on all ranks' rows together."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import hvdkit as hvd
from hvdkit.testing import run_ranks
from tests.layers import batch_norm_cases as batch_norm
from tests.machine import world


@pytest.fixture(scope="module", params=["gloo", "mpi"])
def two_ranks(request, forked_ranks):
    return run_ranks(2, batch_norm.on_two_ranks, **world(request.param)).values


@pytest.mark.dist
@pytest.mark.parametrize("how", batch_norm.HOW)
@pytest.mark.parametrize("name", batch_norm.CASES)
def test_two_ranks_are_one_process(two_ranks, name, how):
    case = batch_norm.CASES[name]
    first, second = (rank[f"{name} {how}"] for rank in two_ranks)
    data = batch_norm.data(case)
    oracle = batch_norm.step(keras.layers.BatchNormalization(**batch_norm.arguments(case)), data, how)
    atol = case.get("atol", 1e-5)
    for key in ("y", "dx"):
        together = np.concatenate([first[key], second[key]])
        assert together.dtype == oracle[key].dtype
        np.testing.assert_allclose(together, oracle[key], rtol=0, atol=atol, err_msg=key)
    for key in {"dgamma", "dbeta"} & set(oracle):
        np.testing.assert_allclose(first[key] + second[key], oracle[key], rtol=1e-5, atol=10 * atol, err_msg=key)
    for key in ("moving_mean", "moving_variance"):  # in float32, whatever the layer computes in
        assert first[key].tobytes() == second[key].tobytes(), f"{key}: bitwise equal on every rank"
        np.testing.assert_allclose(first[key], oracle[key], rtol=1e-6, atol=1e-6, err_msg=key)


@pytest.mark.dist
def test_a_shared_layer(two_ranks):
    oracle = batch_norm.shared(keras.layers.BatchNormalization(), [batch_norm.data({})[0]])
    for key, want in oracle.items():
        together = np.concatenate([rank["shared"][key] for rank in two_ranks])
        np.testing.assert_allclose(together, want, rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.dist
def test_a_large_mean(two_ranks):
    """Mean and variance are as good as float32 can say (at 1e4 it has steps of 1e-3); E[x^2] - E[x]^2 is off by 8."""
    layer = keras.layers.BatchNormalization(momentum=0.0, dtype="float64")
    want = layer(batch_norm.large_mean().astype("float64"), training=True).numpy()
    together = np.concatenate([rank["large mean"]["y"] for rank in two_ranks])
    step = np.spacing(np.float32(1e4))
    assert (np.abs(together - want) < 2 * step / batch_norm.large_mean().std(axis=0)).all()
    mean, variance = (two_ranks[0]["large mean"][key] for key in ("mean", "variance"))
    np.testing.assert_allclose(mean, layer.moving_mean.numpy(), rtol=0, atol=step / 2)
    np.testing.assert_allclose(variance, layer.moving_variance.numpy(), rtol=1e-6)


@pytest.mark.dist
def test_a_training(two_ranks):
    hvd.init()
    alone = batch_norm.train(keras.layers.BatchNormalization(), 8, np.arange(24))
    for first, second, want in zip(*(rank["trained"] for rank in two_ranks), alone, strict=True):
        assert first.tobytes() == second.tobytes(), "the ranks differ"
        np.testing.assert_allclose(first, want, rtol=0, atol=1e-6)


@pytest.mark.dist
def test_inference_and_frozen_are_plain(two_ranks):
    for rank in two_ranks:
        default, told, plain, frozen = (y.tobytes() for y in rank["inference"])
        assert default == told == plain == frozen


@pytest.mark.dist
def test_second_derivatives_are_refused(two_ranks):
    assert all("no second derivatives" in rank["second derivative"] for rank in two_ranks)


@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.dist
def test_process_sets():
    ranks = run_ranks(3, batch_norm.on_three_ranks, init=False).values
    rows = batch_norm.rows_of_three()
    for rank, value in enumerate(ranks):
        members = [0, 2] if rank in {0, 2} else [1]
        for name, among in {"set": members, "loaded": members, "world": [0, 1, 2]}.items():
            want = _alone(np.concatenate([rows[r] for r in among]))[0]
            start = sum(len(rows[r]) for r in among if r < rank)
            np.testing.assert_allclose(value["y"][name], want[start : start + len(rows[rank])], atol=1e-5, err_msg=name)
        slopes = []
        for among in (members, members, [0, 1, 2]):
            start = sum(len(rows[r]) for r in among if r < rank)
            slopes.append(_alone(np.concatenate([rows[r] for r in among]))[1][start : start + len(rows[rank])])
        np.testing.assert_allclose(value["dx"], sum(slopes), atol=1e-4)
        assert value["reduced"] == 6.0
    assert "process set with the ranks [0, 1] is registered" in ranks[0]["not alive"]


def _alone(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = keras.layers.BatchNormalization()(x, training=True)
        loss = tf.reduce_sum(y**3)
    return y.numpy(), tape.gradient(loss, x).numpy()


@pytest.mark.parametrize("case", ["mask", "channels first", "float16"])
def test_a_world_of_one_is_plain(case):
    hvd.init()
    case = batch_norm.CASES[case]
    ours, plain = (
        batch_norm.step(layer(**batch_norm.arguments(case)), batch_norm.data(case), "eager")
        for layer in (hvd.SyncBatchNormalization, keras.layers.BatchNormalization)
    )
    assert {k: v.tobytes() for k, v in ours.items()} == {k: v.tobytes() for k, v in plain.items()}


def test_it_is_saved_and_loaded(tmp_path):
    hvd.init()
    layers = [
        hvd.SyncBatchNormalization(process_set=hvd.ProcessSet([2, 0]), momentum=0.7),
        hvd.SyncBatchNormalization(fused=False),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in loaded.layers] == [hvd.SyncBatchNormalization] * 2
    assert loaded.layers[0].name.startswith("sync_batch_normalization") and loaded.layers[0].momentum == 0.7
    assert [layer.get_config()["process_set"] for layer in loaded.layers] == [[0, 2], None]
    x = np.ones((2, 3), np.float32)  # its ranks are not here, and not asked for in a world of one
    np.testing.assert_array_equal(loaded(x, training=True), model(x, training=True))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fused": True}, "no fused kernel"),
        ({"fused": None}, "no fused kernel"),
        ({"synchronized": True}, "leave out `synchronized`"),
        ({"renorm": True}, r"keras.layers.BatchNormalization\(renorm=True\)"),
        ({"process_set": 2}, "made from ranks"),
        ({"process_set": []}, "made from ranks"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(hvd.errors.UsageError, match=said):
        hvd.SyncBatchNormalization(**arguments)


def test_it_trains_after_init_only():
    hvd.shutdown()
    layer = hvd.SyncBatchNormalization()
    layer(np.ones((2, 3), np.float32))
    with pytest.raises(hvd.errors.NotInitializedError):
        layer(np.ones((2, 3), np.float32), training=True)


@pytest.mark.usefixtures("forked_programs")
def test_load_model_knows_it_in_a_new_process(tmp_path):
    hvd.init()
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((3,)), hvd.SyncBatchNormalization()]).save(path)
    code = f"import hvdkit as hvd; hvd.init(); print(hvd.load_model({str(path)!r}).layers[0].__class__.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "SyncBatchNormalization\n", done.stderr
