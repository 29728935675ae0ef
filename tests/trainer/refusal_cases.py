"""What scripts do that cannot train one model on several ranks: what each rank reads, by a word for what it did."""

from __future__ import annotations

import keras
import numpy as np

import hvdkit as hvd
from tests.trainer.script_cases import Counting, Holding, WithVariable, fit, samples, sgd, sharded


def error_of(run) -> str:
    try:
        run()
    except Exception as error:  # which type it is, is what is tested
        return f"{type(error).__name__}: {error}"
    return "no error"


def model(optimizer=None, **how) -> keras.Model:
    keras.utils.set_random_seed(3)
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    made.compile(optimizer or sgd(0.05), "mse", **how)
    return made


class Both(Counting):
    """One variable that counts steps, and takes in the samples too."""

    def train_step(self, data):
        logs = super().train_step(data)
        self.mean.assign_add(1.0)
        return logs


class OwnMetrics(keras.callbacks.Callback):
    """Chooses weights by a metric that each rank has for itself."""

    def on_epoch_end(self, epoch, logs=None):
        logs["own"] = float((epoch + hvd.rank()) % 2)


def both(marked: bool) -> str:
    keras.utils.set_random_seed(3)
    made = Both()
    made.compile(sgd(), "mse")
    if marked:
        hvd.data.mark_variable(made.mean, follows="samples")
    return error_of(lambda: fit(made))


def eager(marked: bool) -> str:
    keras.utils.set_random_seed(3)
    made = Counting()
    made.compile(sgd(), "mse", run_eagerly=True)
    if marked:
        for variable in (made.calls, made.steps, made.nested, made.raw, made.average):
            hvd.data.mark_variable(variable, follows="steps")
        hvd.data.mark_variable(made.mean, follows="samples")
    failed = error_of(lambda: fit(made, epochs=1))
    return failed if failed != "no error" else f"steps {int(made.steps.numpy())}"


def held_by_nobody() -> str:
    keras.utils.set_random_seed(3)
    made = Holding("closure")
    made.compile()
    return error_of(lambda: fit(made))


def adapted_apart(broadcast: bool) -> str:
    """A layer that Keras does not track, adapted to other data on each rank."""

    class Tools:
        def __init__(self):
            self.norm = keras.layers.Normalization()
            self.norm.adapt(np.random.default_rng(hvd.rank()).normal(size=(20, 3)) + hvd.rank())

    class Untracked(keras.Model):
        def __init__(self):
            super().__init__()
            self.tools, self.dense = Tools(), keras.layers.Dense(1, kernel_initializer="ones")

        def call(self, x):
            return self.dense(self.tools.norm(x))

    made = Untracked()
    made.compile(sgd(0.01), "mse")
    x, y = samples(48)
    if broadcast:
        return error_of(lambda: fit(made, 48)) + " " + str(np.round(made.tools.norm.mean.numpy().ravel(), 5).tolist())
    return error_of(lambda: made.fit(x[:12], y[:12], batch_size=12, verbose=0))


def differing_variable() -> str:
    made = WithVariable(False, True)
    made.compile(sgd(0.01), "mse")
    x, y = samples(48)
    return error_of(lambda: made.fit(x[:12], y[:12], batch_size=12, verbose=0))


def best_weights() -> str:
    stop = keras.callbacks.EarlyStopping("own", mode="max", patience=9, restore_best_weights=True)
    own_list = lambda made: keras.callbacks.CallbackList(
        [OwnMetrics(), stop], add_history=True, model=made, epochs=2, steps=6, verbose=0
    )
    made = model()
    first = error_of(lambda: fit(made, epochs=2, callbacks=[OwnMetrics(), stop]))
    made = model()
    return f"{first} // {error_of(lambda: made.fit(sharded(), epochs=2, verbose=0, callbacks=own_list(made)))}"


def backup(directory: str) -> str:
    mine = [keras.callbacks.BackupAndRestore(f"{directory}/backup")] if hvd.rank() == 0 else []
    return error_of(lambda: fit(model(), callbacks=mine))


def probe_on_rank_0() -> str:
    """Rank 0 trains a model of its own before all train one together."""
    x, y = samples(24)
    together = model()  # made on every rank, as its optimizer has a number
    probe = lambda: model(keras.optimizers.SGD(0.1)).fit(x, y, batch_size=4, verbose=0)
    return error_of(probe if hvd.rank() == 0 else lambda: together.fit(x, y, batch_size=12, verbose=0))


def broadcast_on_rank_0() -> str:
    x, y = samples(24)
    mine = [hvd.callbacks.BroadcastGlobalVariablesCallback(0)] if hvd.rank() == 0 else []
    return error_of(lambda: model().fit(x, y, batch_size=12, verbose=0, callbacks=mine))


def metrics_on_rank_0() -> str:
    x, y = samples(24)
    mine = [hvd.callbacks.MetricAverageCallback()] if hvd.rank() == 0 else []
    return error_of(lambda: model().fit(x, y, batch_size=12, verbose=0, callbacks=mine))


def other_metrics() -> str:
    made = model(metrics=["mae"] if hvd.rank() == 0 else ["mape"])
    x, y = samples(24)
    return error_of(lambda: made.fit(x, y, batch_size=12, verbose=0, callbacks=[hvd.callbacks.MetricAverageCallback()]))


def unlike_objects() -> str:
    mine = lambda: hvd.allgather_object(1, name="scores") if hvd.rank() == 0 else hvd.broadcast_object({"a": 1})
    return error_of(mine)


def traced_before() -> str:
    """A ``tf.function`` with tape and update in it, traced by batches that are as large on every rank."""
    import tensorflow as tf

    class Helped(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 3))

        @tf.function(input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((None, 1))])
        def helper(self, x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.dense(x) - y) ** 2)
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return loss

        def train_step(self, data):
            return {"loss": self.helper(*data)}

    keras.utils.set_random_seed(3)
    made = Helped()
    made.compile(sgd())
    x, y = samples(24)
    made.fit(x, y, batch_size=12, verbose=0)
    first = error_of(lambda: fit(made))
    made = Helped()
    made.compile(sgd())
    fit(made)
    return f"{first} // {error_of(lambda: fit(made))}"


def after_shutdown() -> list[str]:
    """The same model once more in no world, in the next one as it is, and made distributed anew."""
    import tensorflow as tf

    x, y = samples(24)
    made = model()
    train = lambda: made.fit(x, y, batch_size=12, verbose=0)
    train()
    hvd.shutdown()
    methods = (keras.Model.fit, keras.Model.evaluate, keras.Model.make_train_function, tf.GradientTape.gradient)
    ours = [m.__name__ for m in methods if m.__globals__["__name__"].startswith("hvdkit")]
    without = error_of(train)
    hvd.init()
    again = error_of(train)
    made.compile(hvd.DistributedOptimizer(made.optimizer), "mse")
    anew = error_of(train)
    digest = hvd.assert_equal_weights(made) if anew == "no error" else ""
    return [without, again, anew, digest, ours]


def everything(directory: str) -> dict:
    """All of it; each case ends alike on every rank."""
    cases = {
        "both": lambda: both(False),
        "both, marked": lambda: both(True),
        "eager": lambda: eager(False),
        "eager, marked": lambda: eager(True),
        "held by nobody": held_by_nobody,
        "a tf.Variable that differs": differing_variable,
        "adapted apart": lambda: adapted_apart(False),
        "adapted apart, broadcast": lambda: adapted_apart(True),
        "best weights": best_weights,
        "backup": lambda: backup(directory),
        "probe": probe_on_rank_0,
        "broadcast on rank 0": broadcast_on_rank_0,
        "metrics on rank 0": metrics_on_rank_0,
        "other metrics": other_metrics,
        "objects": unlike_objects,
        "traced before": traced_before,
        "shutdown": after_shutdown,
    }
    found = {}
    for name, case in cases.items():
        found[name] = case()
        hvd.barrier()
    return found
