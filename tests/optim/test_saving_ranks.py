"""A saved model opens in plain Keras without hvdkit, as the plain optimizer, slots and iterations kept."""

from __future__ import annotations

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.testing import run_ranks

pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]

PLAIN = """
import sys, json
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("hvdkit", "horovod"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import keras, numpy as np
{registered}
out = {{}}
for name in sys.argv[2:]:
    model = keras.models.load_model(f"{{sys.argv[1]}}/{{name}}.keras")
    optimizer = model.optimizer
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    before = float(sum(np.abs(np.asarray(v)).sum() for v in optimizer.variables))
    model.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
    out[name] = [type(optimizer).__name__, type(inner).__name__, type(inner).__module__, before, int(inner.iterations)]
print(json.dumps(out))
"""
REGISTERED = """
@keras.saving.register_keras_serializable("mine", "Slow")
class SlowSGD(keras.optimizers.SGD):
    pass
"""
exec(REGISTERED)  # noqa: S102  the same class here and in the plain process

MAKERS = {
    "adam": lambda: hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3, global_clipnorm=1.0)),
    "sgd": lambda: hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)),
    "scaled": lambda: hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3))),
    "outside": lambda: keras.optimizers.LossScaleOptimizer(hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3))),
    "own": lambda: hvd.DistributedOptimizer(SlowSGD(0.1, momentum=0.5)),  # noqa: F821
}


def save(directory: str) -> dict:
    out = {}
    for name, make in MAKERS.items():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(make(), "mse")
        x = np.random.default_rng(hvd.rank()).normal(size=(32, 3)).astype("float32")
        model.fit(x, x.sum(1), batch_size=4, verbose=0)
        if hvd.rank() == 0:
            model.save(f"{directory}/{name}.keras")
        total = float(sum(np.abs(np.asarray(v.numpy())).sum() for v in model.optimizer.variables))
        out[name] = {"sum": total, "config": json.dumps(keras.saving.serialize_keras_object(model.optimizer))}
    hvd.barrier()
    return out


def test_opens_without_hvdkit(tmp_path):
    saved = run_ranks(2, save, str(tmp_path)).values[0]
    code = PLAIN.format(registered=REGISTERED)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *MAKERS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    opened = json.loads(done.stdout.strip().splitlines()[-1])
    names = {"adam": "Adam", "sgd": "SGD", "scaled": "Adam", "outside": "Adam", "own": "SlowSGD"}
    for name, (outer, inner, module, before, iterations) in opened.items():
        assert inner == names[name] and (outer == "LossScaleOptimizer") == (name in ("scaled", "outside"))
        assert "hvdkit" not in module and "hvdkit" not in saved[name]["config"]
        assert before == pytest.approx(saved[name]["sum"]), "slots, iterations and scale came along"
        assert iterations == (4 if name == "sgd" else 8) + (0 if name == "sgd" else 1)


def test_slots_and_iterations_stay_when_an_optimizer_is_wrapped():
    hvd.init()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    adam = keras.optimizers.Adam(1e-3)
    model.compile(adam, "mse")
    model.fit(np.ones((8, 3)), np.ones((8, 1)), batch_size=4, verbose=0)
    before = [np.asarray(v.numpy()) for v in adam.variables]
    wrapped = hvd.DistributedOptimizer(adam)
    assert wrapped is adam and isinstance(wrapped, keras.optimizers.Adam) and int(wrapped.iterations) == 2
    for a, v in zip(before, wrapped.variables, strict=True):
        np.testing.assert_array_equal(a, v.numpy())


def test_a_config_describes_the_plain_optimizer():
    hvd.init()
    wrapped = hvd.DistributedOptimizer(keras.optimizers.Adam(0.5))
    again = type(wrapped).from_config(wrapped.get_config())
    assert type(again) is keras.optimizers.Adam and float(again.learning_rate) == 0.5
