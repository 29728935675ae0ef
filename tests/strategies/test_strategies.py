"""What a strategy refuses before it is made, and how YAML names one. Replicas are in tests/equivalence."""

from __future__ import annotations

import keras
import pytest

import hvdkit as hvd
from hvdkit.app.schema import Config
from hvdkit.errors import ConfigError, UsageError
from hvdkit.strategies import STRATEGIES
from hvdkit.strategies.mirrored_per_host_strategy import check
from hvdkit.strategies.replicas import choose


def test_gpus_come_before_cpus():
    assert choose(None, ["GPU:0", "GPU:1"], ["CPU:0"]) == ["GPU:0", "GPU:1"]
    assert choose(["gpu:1", "/device:GPU:0"], ["GPU:0", "GPU:1"], ["CPU:0"]) == ["GPU:1", "GPU:0"]
    with pytest.raises(UsageError, match=r"\[rank 3\] There is no device 'GPU:2' here. Known: GPU:0, CPU:0"):
        choose(["GPU:2"], ["GPU:0"], ["CPU:0"], rank=3)
    with pytest.raises(UsageError, match="at least one"):
        choose([], ["GPU:0"], ["CPU:0"])


def test_a_pinned_process_is_told_how_not_to_be():
    with pytest.raises(UsageError, match=r"pinned this process to GPU:1(.|\n)*pin_gpus=False"):
        check(rank=1, local_size=1, pinned="GPU:1", devices=None)


def test_every_name_is_a_strategy():
    hvd.init()
    for name in STRATEGIES.names():
        strategy = getattr(hvd.strategies, name)()
        with strategy.scope():
            assert strategy.num_replicas_in_sync == 1
    with pytest.raises(AttributeError, match=r"Known: .*mirrored_per_host"):
        _ = hvd.strategies.parameter_server


def test_a_strategy_in_yaml(tmp_path):
    from hvdkit.app.train import train

    small = {"model": {"name": "mlp"}, "epochs": 1, "save": str(tmp_path / "digits.keras")}
    plain = train(Config(**small))
    mirrored = train(Config(**small, strategy={"name": "mirrored", "devices": ["CPU:0"]}))
    assert mirrored.accuracy == pytest.approx(plain.accuracy, abs=0.01)
    assert keras.models.load_model(tmp_path / "digits.keras").count_params() > 0
    with pytest.raises(UsageError, match=r"Unknown strategy 'miror'(.|\n)*did you mean 'mirrored'"):
        train(Config(strategy="miror"))
    with pytest.raises(UsageError, match="no device 'GPU:9'"):
        train(Config(strategy={"name": "mirrored", "devices": ["GPU:9"]}))
    with pytest.raises(ConfigError, match=r"strategy of the configuration(.|\n)*'device'"):
        train(Config(strategy={"name": "mirrored", "device": "GPU:9"}))
