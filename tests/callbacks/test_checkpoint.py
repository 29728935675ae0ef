"""CheckpointCallback in a world of one: what is left when fit is left, and what it refuses."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.checkpoint.storage.store import Store


def _model(units: int = 3) -> keras.Model:
    hvd.init()
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), "mse")
    return model


def _data(n: int = 30):
    x = np.random.default_rng(0).normal(size=(n, 4)).astype("float32")
    return hvd.data.shard(x, x.sum(1, keepdims=True), batch_size=4)


class _Leave(keras.callbacks.Callback):
    """Interrupts a training in its middle, as Ctrl-C does."""

    def __init__(self, at: int = 5):
        super().__init__()
        self.left = at

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_fit_left_by_an_exception_leaves_neither_lock_nor_signals(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    got = []
    signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        model = _model()
        with pytest.raises(KeyboardInterrupt):
            model.fit(_data(), verbose=0, callbacks=[hvd.callbacks.CheckpointCallback(tmp_path, every=2), _Leave()])
        os.kill(os.getpid(), signal.SIGTERM)
        assert got == [signal.SIGTERM], "the signal was swallowed"
        again = hvd.callbacks.CheckpointCallback(tmp_path, every=2)
        model.fit(_data(), verbose=0, epochs=2, callbacks=[again])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Store(tmp_path).steps()[0] == 16


def test_another_model_is_refused_by_the_name_of_the_variable(tmp_path):
    model = _model()
    hvd.checkpoint.save(model, tmp_path, step=3)
    with pytest.raises(
        hvd.errors.UsageError, match=r"does not fit this model: weights/00000/\S*kernel is float32 \[4, 5\]"
    ):
        hvd.checkpoint.restore(_model(5), tmp_path)


def test_other_data_are_refused_in_the_middle_of_an_epoch(tmp_path):
    model = _model()
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            _data(),
            verbose=0,
            callbacks=[hvd.callbacks.CheckpointCallback(tmp_path, every=2, background=False), _Leave()],
        )
    with pytest.raises(hvd.errors.UsageError, match=r"with different data: .*samples was 30 and is 31"):
        _model().fit(_data(31), verbose=0, callbacks=[hvd.callbacks.CheckpointCallback(tmp_path)])


def test_a_damaged_checkpoint_is_left_out_and_an_older_one_taken(tmp_path, caplog):
    model = _model()
    kept = hvd.checkpoint.RetentionPolicy(last=5)
    for step in (1, 2):
        hvd.checkpoint.save(model, tmp_path, step=step, keep=kept)
    file = tmp_path / "step-000000002" / "common.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert hvd.checkpoint.restore(model, tmp_path).step == 1


@pytest.mark.usefixtures("forked_programs")
def test_an_export_opens_in_plain_keras(tmp_path):
    model = _model()
    hvd.checkpoint.save(model, tmp_path / "runs", step=1)
    command = [sys.executable, "-m", "hvdkit", "checkpoint", "export", str(tmp_path / "runs")]
    subprocess.run([*command, str(tmp_path / "m.keras")], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "m.weights.h5")], check=True, capture_output=True)
    for there, here in zip(keras.models.load_model(tmp_path / "m.keras").weights, model.weights, strict=True):
        assert there.numpy().tobytes() == here.numpy().tobytes()


def test_an_error_of_the_background_is_raised_at_the_next_step(tmp_path):
    saving = hvd.callbacks.CheckpointCallback(tmp_path, every=2)

    class Break(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            saving._saver._write = lambda *_: 1 / 0

    with pytest.raises(ZeroDivisionError):
        _model().fit(_data(), verbose=0, callbacks=[saving, Break()])


def test_never_resuming_is_refused_beside_another_training(tmp_path):
    _model().fit(_data(), verbose=0, callbacks=[hvd.callbacks.CheckpointCallback(tmp_path, every="epoch")])
    never = hvd.callbacks.CheckpointCallback(tmp_path, resume="never")
    with pytest.raises(hvd.errors.UsageError, match="would mix two trainings"):
        _model().fit(_data(), verbose=0, callbacks=[never])


Point = collections.namedtuple("Point", ["x", "y"])


class _Stateful(keras.callbacks.Callback):
    """Every kind of attribute that is saved, and some that are not."""

    def __init__(self, made_with: int = 3):
        super().__init__()
        self.made_with = made_with
        self.number, self.text, self.nothing, self.flag = 0.5, "a", None, True
        self.infinite, self.scalar = float("inf"), np.float32(1.5)
        self.counts, self.point = collections.defaultdict(int), Point(0, 0)
        self.nested = {"list": [1, (2.0, np.arange(3))]}
        self.variable = keras.Variable([1.0, 2.0])
        self.file, self.words = open(os.devnull), {1: "keys that are no text"}  # noqa: SIM115


def test_the_state_of_a_callback_comes_back():
    from hvdkit.checkpoint import callback_state
    from hvdkit.checkpoint.object_state import SavedObjects

    before, after = _Stateful(), _Stateful(made_with=7)
    before.number, before.text, before.nothing, before.flag = 2.25, "b", 4, False
    before.infinite, before.scalar = float("-inf"), np.float32(2.5)
    before.nested["list"].append(None)
    before.variable.assign([3.0, 4.0])
    before.counts["a"] += 3
    before.point = Point(1, 2.5)
    held, words = after.variable, after.words
    before.history, before.halves = [0.5 * i for i in range(300)], [np.float32(i) for i in range(300)]
    before.itself = [before.number]
    before.itself.append(before.itself)
    tensors = callback_state.collect_states([before])
    assert len(tensors) < 12, "a tensor for each number of a list"
    callback_state.restore_states([after], SavedObjects("callbacks", [tensors], rank=0, size=1))
    assert after.history == before.history and after.halves == before.halves
    assert isinstance(after.history[0], float) and after.halves[0].dtype == np.float32
    assert not hasattr(after, "itself")
    after.counts["b"] += 1
    assert after.counts == {"a": 3, "b": 1} and after.point == Point(1, 2.5) and after.point.y == 2.5
    assert (after.number, after.text, after.nothing, after.flag) == (2.25, "b", 4, False)
    assert after.infinite == float("-inf") and after.scalar == np.float32(2.5) and after.scalar.dtype == np.float32
    assert after.nested["list"][0] == 1 and after.nested["list"][1][1].tolist() == [0, 1, 2]
    assert isinstance(after.nested["list"][1], tuple) and after.nested["list"][2] is None
    assert after.variable is held and held.numpy().tolist() == [3.0, 4.0]
    other = _Stateful()
    callback_state.restore_states([other], SavedObjects("callbacks", [tensors], rank=1, size=2))
    assert other.number == 0.5, "a new rank is given what may be another rank's own"
    assert after.made_with == 7 and after.words is words and after.file is not before.file


def test_which_callbacks_have_a_state():
    from hvdkit.checkpoint.callback_state import stateful_callbacks

    class OwnBoard(keras.callbacks.TensorBoard):
        """Holds files."""

    class OwnStopping(keras.callbacks.EarlyStopping):
        """Counts."""

    own = [_Stateful(), keras.callbacks.EarlyStopping(), OwnStopping(), keras.callbacks.SwapEMAWeights()]
    others = [OwnBoard(), keras.callbacks.CSVLogger(os.devnull), *hvd.callbacks.defaults()]
    assert stateful_callbacks([*own, *others]) == own


def test_an_evaluation_within_fit_leaves_the_place_alone(tmp_path):
    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.evaluate(_data(9), verbose=0)

    saving = hvd.callbacks.CheckpointCallback(tmp_path, every=1, background=False)
    with pytest.raises(KeyboardInterrupt):
        _model().fit(_data(20), epochs=3, verbose=0, callbacks=[Evaluate(), saving, _Leave(at=7)])
    place = Store(tmp_path).newest_valid().manifest.state["place"]
    assert place["passed"] == 8 and place["facts"]["samples"] == 20
    model = _model()
    model.fit(_data(20), epochs=3, verbose=0, callbacks=[hvd.callbacks.CheckpointCallback(tmp_path)])
    assert int(model.optimizer.iterations.numpy()) == 15


class _Gan(keras.Model):
    """Two optimizers that compile does not know."""

    def __init__(self):
        super().__init__()
        self.g, self.d = keras.layers.Dense(4), keras.layers.Dense(1)
        self.g.build((None, 4)), self.d.build((None, 4))
        self.g_optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01))
        self.d_optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01))

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean(self.d(self.g(data[0])) ** 2)
        for optimizer, layer in ((self.g_optimizer, self.g), (self.d_optimizer, self.d)):
            weights = layer.trainable_weights
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def test_a_gan_goes_on(tmp_path):
    def trained(directory, *callbacks):
        hvd.init()
        keras.utils.set_random_seed(1)
        model = _Gan()
        model.compile()
        saving = hvd.callbacks.CheckpointCallback(directory, every=1, background=False)
        try:
            model.fit(_data(20), epochs=3, verbose=0, callbacks=[saving, *callbacks])
        except KeyboardInterrupt:
            return trained(directory)
        return [w.numpy() for w in model.weights]

    straight, resumed = trained(tmp_path / "a"), trained(tmp_path / "b", _Leave(at=7))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(straight, resumed, strict=True))
