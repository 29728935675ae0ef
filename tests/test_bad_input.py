"""Bad input: one clear sentence each, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import hvdkit as hvd
from hvdkit.app import config
from hvdkit.errors import ConfigError, NotInitializedError, UsageError
from tests import machine

pytestmark = pytest.mark.usefixtures("forked_programs")

ROOT = Path(hvd.__file__).parent.parent


class _NotKeras:
    pass


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (keras.optimizers.Adam, "pass an instance: Adam\\(...\\)"),
        (_NotKeras(), "must be a keras.optimizers.Optimizer of Keras 3(.|\n)*_NotKeras"),
        (None, "Received: None"),
        (type("SGD", (), {"__module__": "tf_keras.optimizers"})(), "optimizer of Keras 2"),
        (type("Adam", (), {"__module__": "torch.optim.adam"})(), "PyTorch optimizer"),
    ],
)
def test_wrong_optimizer(optimizer, words):
    hvd.init()
    with pytest.raises(UsageError, match=words):
        hvd.DistributedOptimizer(optimizer)


def test_a_multi_optimizer_is_wrapped_from_inside():
    machine.needs_multi_optimizer()
    hvd.init()
    with pytest.raises(UsageError, match="cannot be made distributed as a whole"):
        hvd.DistributedOptimizer(keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD())))


def test_wrapped_twice():
    hvd.init()
    optimizer = hvd.DistributedOptimizer("adam")
    for twice in (optimizer, keras.optimizers.LossScaleOptimizer(optimizer)):
        with pytest.raises(UsageError, match="already distributed"):
            hvd.DistributedOptimizer(twice)


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        ("fp61", "Unknown compression 'fp61'. Known: none, fp16.(.|\n)*did you mean 'fp16'"),
        ({"ratio": 0.1}, "needs a 'name'"),
        (16, "Received: compression=16"),
    ],
)
def test_unknown_compression(compression, words):
    hvd.init()
    with pytest.raises(UsageError, match=words):
        hvd.DistributedOptimizer("adam", compression=compression)


def test_a_min_is_no_gradient():
    hvd.init()
    with pytest.raises(UsageError, match=r"Average, Sum or Adasum. Received: op=Min"):
        hvd.DistributedOptimizer("adam", op=hvd.Min)


def test_before_init():
    done = _python("import hvdkit as hvd; hvd.rank()")
    assert "hvdkit has not been initialized" in done.stderr and "call hvd.init() first" in done.stderr
    assert issubclass(NotInitializedError, RuntimeError)


def test_another_backend_is_refused():
    code = "import hvdkit.session as s; s._keras_is_ours(required=True)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the Keras backend is 'numpy'" in done.stderr and "KERAS_BACKEND=tensorflow" in done.stderr


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("epoch: 3", (), ["unknown key `epoch`", "did you mean 'epochs'"]),
        ("launch: {npp: 3}", (), ["unknown key `launch.npp`", "did you mean 'np'"]),
        ("launch: {zzz: 3}", (), ["unknown key `launch.zzz`", "known here: np, launcher"]),
        ("launch: {launcher: mpirum}", (), ["`launch.launcher`", "mpirum", "did you mean 'mpirun'"]),
        ("engine: mpy", (), ["`engine`", "Unknown engine 'mpy'. Known: auto, mpi, horovod.", "did you mean 'mpi'"]),
        ("epochs: many", (), ["`epochs`", "integer", "'many'"]),
        ("epochs: 0", (), ["`epochs`", "greater than or equal to 1"]),
        ("model: {filters: 3}", (), ["the key `model.name` is missing"]),
        ("[1, 2]", (), ["should be a mapping", "list"]),
        ("a: [1", (), ["is not YAML"]),
        ("", ("epochs",), ["--set takes key=value", "'epochs'"]),
        ("epochs: 3", ("epochs.x=1",), ["'epochs' is a number, which has no keys"]),
        ("", ("optimizer.name=adam", "data.test_fraction=2"), ["`data.test_fraction`", "less than 1"]),
    ],
)
def test_bad_configurations(tmp_path, text, overrides, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        config.load_config(path, overrides)
    for word in words:
        assert word in str(error.value)


def test_a_configuration_that_does_not_exist(tmp_path):
    (tmp_path / "digits.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"does not exist(.|\n)*did you mean 'digits.yaml'"):
        config.load_config(tmp_path / "digit.yaml")


def test_overrides_are_yaml_and_win(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 3\noptimizer: {name: sgd}\n")
    loaded = config.load_config(path, ("epochs=5", "optimizer.momentum=0.9", "save=null"))
    assert loaded.epochs == 5 and loaded.optimizer.arguments() == {"momentum": 0.9} and loaded.seed == 1


def test_the_configuration_that_ships_is_valid_and_explains_every_key():
    path = ROOT / "configs" / "digits.yaml"
    loaded = config.load_config(path)
    assert loaded.model.name == "cnn"
    text = path.read_text()
    for key in config.Config.model_fields:
        assert f"\n{key}:" in text, key


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["configs/nope.yaml"], ["does not exist"]),
        (["configs/digits.yaml", "--set", "epoch=1"], ["unknown key `epoch`", "did you mean 'epochs'"]),
        (["configs/digits.yaml", "-np", "0"], ["-np", "0 is not in the range"]),
        (["configs/digits.yaml", "-np", "1", "--set", "model.name=cn"], ["Unknown model 'cn'", "'cnn'"]),
        (["configs/digits.yaml", "-np", "1", "--set", "model.filterz=1"], ["model of the configuration", "filterz"]),
        (["configs/digits.yaml", "-np", "1", "--set", "optimizer.name=adamm"], ["optimizer of the configuration"]),
        (["configs/digits.yaml", "-np", "1", "--set", "data.name=no:thing"], ["'no:thing'", "module:function"]),
        (["configs/digits.yaml", "-np", "1", "--set", "loss=huh"], ["loss of the configuration", "huh"]),
    ],
)
def test_bad_trainings(arguments, words):
    done = _python("-m", "hvdkit", "train", *arguments)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr


def test_a_dry_run_shows_the_configuration():
    done = _python("-m", "hvdkit", "train", "configs/digits.yaml", "--dry-run", "--set", "epochs=7")
    assert done.returncode == 0 and "epochs: 7" in done.stdout and "global_clipnorm: 5.0" in done.stdout


def _python(*arguments: str) -> subprocess.CompletedProcess:
    arguments = arguments if arguments[0].startswith("-") else ("-c", *arguments)
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
