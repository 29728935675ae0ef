"""Config -> compile -> fit: the wiring of `hvdkit train`, and a program a user may copy.

enter the world                       hvd.init()
share out this process' devices       hvd.strategies
the same model on every rank          hvd.set_seed, build
each rank its part of the data        hvd.data.shard
reduce, then clip and apply           hvd.DistributedOptimizer
rank 0's weights, mean metrics, check hvd.callbacks.defaults()
save, go on, end in order             hvd.callbacks.CheckpointCallback
"""

from __future__ import annotations

import inspect
import re
import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import hvdkit as hvd
from hvdkit.app.choices import DATA, MODELS, STRATEGIES
from hvdkit.app.schema import Config, Named
from hvdkit.app.strict_yaml import shown
from hvdkit.errors import ConfigError, UsageError
from hvdkit.utils.registry import Registry, import_object

# Which metric is meant Keras finds out when it knows the loss.
_CHOSEN_BY_THE_LOSS = {"acc", "accuracy", "crossentropy", "ce"}


@dataclass(frozen=True)
class Result:
    """What a training ends with; the same on every rank."""

    loss: float
    accuracy: float | None
    samples_per_second: float
    weights_sha256: str
    ranks: int

    def __str__(self) -> str:
        measure = f"test loss {self.loss:.4f}" if self.accuracy is None else f"test accuracy {self.accuracy:.3f}"
        return (
            f"{measure} on {self.ranks} ranks, {self.samples_per_second:,.0f} samples/s, "
            f"weights identical on all ranks (sha256 {self.weights_sha256[:16]})"
        )


class _Throughput(keras.callbacks.Callback):
    """Samples per second over all ranks, without the first epoch, in which the step is traced."""

    def __init__(self, samples_per_epoch: int):
        super().__init__()
        self._samples, self._ends = samples_per_epoch, [time.perf_counter()]

    def on_epoch_end(self, epoch, logs=None):
        self._ends.append(time.perf_counter())

    def result(self) -> float:
        ends = self._ends[1:] if len(self._ends) > 2 else self._ends
        return self._samples * (len(ends) - 1) / (ends[-1] - ends[0])


def train(config: Config) -> Result:
    """Train as the configuration says, on as many ranks as there are, and test on the held-out data.

    Raises:
        ConfigError: a name or an argument in the configuration that Keras does not know.
    """
    named = _Names(config)
    _init(config, named)
    (x, y), (x_test, y_test) = _load_data(config, named)
    strategy = _strategy(config, named)
    drop = strategy.num_replicas_in_sync > 1  # replicas can share whole batches only
    options = {
        "batch_size": config.batch_of_each(hvd.size()),
        "seed": config.seed,
        "per_rank_batch": config.per_rank_batch,
    }
    data = hvd.data.shard(x, y, drop_remainder=drop, **options)
    with strategy.scope():
        model = _compiled(config, x.shape[1:], int(np.max(y)) + 1, data.num_batches)
    throughput = _Throughput(len(x))
    model.fit(data, epochs=config.epochs, callbacks=[*_callbacks(config), throughput])
    result = _test(model, x_test, y_test, throughput.result())
    if config.save:
        hvd.checkpoint.export(model, config.save)
    hvd.barrier()
    return result


def check_config(config: Config, ranks: int) -> None:
    """Make all that the configuration names as ``train`` makes it, and train nothing.

    Data of the user's own are not loaded, which may take long: a model that wants to know their shape is not built.

    Args:
        config: the configuration.
        ranks: how many ranks will train.

    Raises:
        ConfigError: as ``train``.
    """
    named = _Names(config)
    config.batch_of_each(ranks)
    _init(config, named)
    strategy = _strategy(config, named)
    with strategy.scope():
        if config.data.name in DATA.names():
            (x, y), _ = _load_data(config, named)
            model = _model(config, x.shape[1:], int(np.max(y)) + 1)
        else:
            _build("model", inspect.signature(named.model).bind, (), 1, **config.model.arguments())
            model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        _compile(config, model, steps_per_epoch=1, ranks=ranks)
    _callbacks(config)


class _Names:
    """What the configuration chooses by name; resolved before anything is made, and before the ranks meet."""

    def __init__(self, config: Config):
        spec = config.strategy if isinstance(config.strategy, Named) else Named(name=config.strategy)
        self.strategy, self.strategy_arguments = _resolve(STRATEGIES, spec.name), spec.arguments()
        self.data = _resolve(DATA, config.data.name)
        self.model = _resolve(MODELS, config.model.name)


def _init(config: Config, named: _Names) -> None:
    engine = None if config.engine == "auto" else config.engine  # HVDKIT_ENGINE may have a say
    hvd.init(pin_gpus=getattr(named.strategy, "pin_gpus", True), engine=engine)
    hvd.set_seed(config.seed)


def _load_data(config: Config, named: _Names) -> tuple[tuple, tuple]:
    arguments = {"test_fraction": config.data.test_fraction} if config.data.name in DATA.names() else {}
    return named.data(**arguments)


def _strategy(config: Config, named: _Names) -> Any:
    return _build("strategy", named.strategy, **named.strategy_arguments)


def _compiled(config: Config, input_shape: tuple, classes: int, steps_per_epoch: int) -> keras.Model:
    model = _model(config, input_shape, classes)
    _compile(config, model, steps_per_epoch, hvd.size())
    return model


def _model(config: Config, input_shape: tuple, classes: int) -> keras.Model:
    return _build("model", _resolve(MODELS, config.model.name), input_shape, classes, **config.model.arguments())


def _compile(config: Config, model: keras.Model, steps_per_epoch: int, ranks: int) -> None:
    compression = config.compression if isinstance(config.compression, str) else config.compression.model_dump()
    optimizer = _optimizer(config, steps_per_epoch, ranks)
    if config.local_sgd is None:
        _build("compression", hvd.DistributedOptimizer, optimizer, compression=compression)
    else:
        _without_compression(config)
        hvd.optim.LocalSGD(optimizer, **config.local_sgd.model_dump())
    if optimizer.weight_decay and config.weight_decay_on == "kernels":
        hvd.optim.exclude_bias_and_norm(optimizer, model)
    loss = _loss(config)
    for name in set(config.metrics) - _CHOSEN_BY_THE_LOSS:  # Keras would find out in the first step
        _build("metrics", keras.metrics.get, name)
    model.compile(optimizer, loss=loss, metrics=list(config.metrics))


def _callbacks(config: Config) -> list:
    check = hvd.callbacks.ConsistencyCheck(config.consistency_check_every)
    callbacks = [c for c in hvd.callbacks.defaults() if not isinstance(c, hvd.callbacks.ConsistencyCheck)]
    if config.noise_scale:
        callbacks.append(hvd.callbacks.GradientNoiseScale())
    saving = config.checkpoint
    if saving.dir is not None:
        options = saving.model_dump(exclude={"dir"})
        callbacks.append(hvd.callbacks.CheckpointCallback(saving.dir, **options))
    return [*callbacks, check]


def _test(model: keras.Model, x: np.ndarray, y: np.ndarray, samples_per_second: float) -> Result:
    """All ranks test together; the replicas of a strategy, which cannot share out what is uneven, each rank alone."""
    replicas = model.distribute_strategy.num_replicas_in_sync > 1
    data = (x, y) if replicas else (hvd.data.shard(x, y, batch_size=32, shuffle=False),)
    logs = model.evaluate(*data, verbose=0, return_dict=True)
    return Result(
        loss=float(logs["loss"]),
        accuracy=float(logs["accuracy"]) if "accuracy" in logs else None,
        samples_per_second=samples_per_second,
        weights_sha256=hvd.assert_equal_weights(model),
        ranks=hvd.size(),
    )


def _resolve(registry: Registry, name: str) -> Any:
    """A registered thing, or the user's own, as ``module:function``."""
    if ":" not in name:
        return registry.resolve(name)
    fix = "it is read as module:function, from the directory you are in or an installed package."
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", name):
        raise ConfigError(f"{shown(name)} in the configuration names no {registry.kind}.", fix=fix)
    try:
        function = import_object(name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name!r} in the configuration does not load: {error}.", fix=fix) from error
    if not callable(function):
        raise ConfigError(f"{name!r} in the configuration is not a function, but {shown(function)}.", fix=fix)
    return function


def _build(kind: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except UsageError:
        raise  # says what to do already
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The {kind} of the configuration cannot be created: {error}") from error


def _optimizer(config: Config, steps_per_epoch: int, ranks: int) -> keras.optimizers.Optimizer:
    arguments = config.optimizer.arguments()
    if config.lr is not None:
        if "learning_rate" in arguments:
            raise ConfigError("`lr` and `optimizer.learning_rate` are both in the configuration.", fix="drop one.")
        options = config.lr.model_dump(exclude={"base", "base_batch_size", "decay"})
        decay = config.lr.decay
        arguments["learning_rate"] = hvd.schedules.large_batch(
            config.lr.base,
            config.lr.base_batch_size,
            config.batch_of_each(ranks),
            steps_per_epoch,
            decay=decay.model_dump() if isinstance(decay, Named) else decay,
            epochs=config.epochs,
            accumulation=config.accumulation,
            **options,
        )
    if config.optimizer.name.lower() == "lars":
        if config.weight_decay_on == "all":
            arguments.setdefault("exclude", [])
        return _build("optimizer", hvd.optim.LARS, **arguments)
    named = _build("optimizer", keras.optimizers.get, config.optimizer.name)
    return _build("optimizer", type(named), **arguments)


def _without_compression(config: Config) -> None:
    compression = config.compression if isinstance(config.compression, str) else config.compression.name
    if compression != "none":
        raise ConfigError("`local_sgd` exchanges weights, which are not compressed.", fix="leave out `compression`.")


def _loss(config: Config) -> Any:
    if not config.label_smoothing:
        return _build("loss", keras.losses.get, config.loss)
    known = {
        "sparse_categorical_crossentropy": hvd.losses.SmoothSparseCategoricalCrossentropy,
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    }
    if config.loss not in known:
        raise ConfigError(
            f"`label_smoothing` is for {' and '.join(known)}. Received: loss: {config.loss}.", fix="leave it out."
        )
    return known[config.loss](label_smoothing=config.label_smoothing)
