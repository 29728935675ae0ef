"""The configuration of ``hvdkit train``: defaults < YAML < ``--set a.b=c``, one frozen Config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from hvdkit.app import strict_yaml
from hvdkit.app.choices import DATA, MODELS, STRATEGIES
from hvdkit.app.strict_yaml import shown
from hvdkit.engines import ENGINES
from hvdkit.errors import ConfigError, UsageError
from hvdkit.launch.launcher import LAUNCHERS, starters
from hvdkit.utils.deprecation import warn_deprecated
from hvdkit.utils.numbers import seconds_of
from hvdkit.utils.registry import suggestion

# As large as a float holds exactly: far beyond it means nothing, and what is computed of it overflows.
_Count = Annotated[int, Field(ge=1, lt=2**53)]
_Rate = Annotated[float, Field(ge=0, lt=1e15)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_by_name=True)
    _old_names: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        """Take the names that values had before, too."""
        old = {name: new for name, new in cls._old_names.items() if isinstance(given, dict) and name in given}
        for name, new in old.items():
            if new in given:
                raise ValueError(f"`{name}` is the old name of `{new}`: give one of them.")
            warn_deprecated(f"`{name}` in a configuration", f"`{new}`")
        return {old.get(name, name): value for name, value in given.items()} if old else given


class Named(_Section):
    """Something chosen by name, with the arguments it takes."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    def arguments(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class Data(_Section):
    """What to train on."""

    name: str = Field("digits", description="`digits`, or `module:function` that returns ((x, y), (x_test, y_test)).")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(1 / 3, description="The fraction held out for the test.")


class BatchSize(_Section):
    """The number of samples per step on each rank, or per update on all ranks together."""

    per_rank: _Count | None = Field(None, description="Samples per step on each rank.")
    global_: _Count | None = Field(
        None, alias="global", description="Samples per update, on all ranks and accumulated steps together."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_number(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("a number of samples, or {per_rank: n} or {global: n}")
        return value if isinstance(value, dict | cls) else {"per_rank": value}

    @model_validator(mode="after")
    def _one_of_them(self) -> BatchSize:
        if (self.per_rank is None) == (self.global_ is None):
            raise ValueError("give either per_rank or global")
        return self


class LearningRate(_Section):
    """The learning rate of a small batch, scaled to this batch: see `hvd.schedules.large_batch`."""

    base: _Rate = Field(gt=0, description="The rate that was tuned for base_batch.")
    base_batch: _Count = Field(256, description="Samples per update for which `base` was tuned.")
    scale: str = Field("linear", description="none, linear (SGD) or sqrt (Adam, LAMB).")
    warmup_epochs: Annotated[float, Field(ge=0, lt=2**53)] = Field(
        5, description="Epochs in which the rate rises to the scaled rate."
    )
    warmup_from: _Rate | None = Field(None, description="The rate at the start of the warm-up; None: `base`.")
    after: str | Named = Field("cosine", description="constant, step, cosine, polynomial; or {name: ..., arguments}.")


class LocalSGD(_Section):
    """Each rank trains for some steps, then the weights are averaged: see `hvd.optim.LocalSGD`."""

    _old_names: ClassVar[dict[str, str]] = {"k": "sync_period", "start": "start_step"}
    sync_period: _Count = Field(8, description="Updates between two averages of the weights.")
    start_step: Annotated[int, Field(ge=0, lt=2**53)] = Field(
        0, description="Updates with reduced gradients before local SGD starts."
    )
    outer_lr: _Rate = Field(1.0, gt=0, description="The rate of the outer step; 1 takes the mean.")
    outer_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="The momentum of the outer step.")
    nesterov: bool = Field(True, description="Whether the outer momentum is Nesterov's.")


def _duration(value: Any) -> Any:
    seconds_of(value)
    return value


class Checkpoint(_Section):
    """Where the training is saved, and how it resumes."""

    dir: str | None = Field(None, description="The directory; None saves nothing.")
    every: _Count | Literal["auto", "epoch"] = Field("auto", description="A number of steps, auto or epoch.")
    keep: _Count = Field(3, description="How many of the newest checkpoints to keep.")
    resume: Literal["auto", "never"] = Field("auto", description="Resume from the newest valid checkpoint, or never.")
    max_time: Annotated[float | str | None, BeforeValidator(_duration)] = Field(
        None, description='Save and exit with code 75 after this time: "3:50:00", or seconds.'
    )


class Launch(_Section):
    """How to start the ranks, when `hvdkit train` was not itself started by a launcher."""

    np: _Count = Field(1, description="The number of ranks.")
    launcher: str = Field("auto", description=f"What starts them: auto, {', '.join(starters())}.")


class Config(_Section):
    """Everything `hvdkit train` needs to know."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(1, description="Seeds the model and the order of the data.")
    data: Data = Data()
    model: Named = Field(
        Named(name="cnn"), description="`cnn`, `resnet`, `mlp` or `module:function`, with its arguments."
    )
    optimizer: Named = Field(Named(name="adam"), description="Any Keras optimizer, or `lars`, with its arguments.")
    compression: str | Named = Field("none", description="How gradients are compressed: none, fp16.")
    local_sgd: LocalSGD | None = Field(None, description="Average weights every few steps instead of gradients.")
    engine: str = Field("auto", description=f"What moves the bytes: auto, {', '.join(ENGINES.names())}.")
    strategy: str | Named = Field("horovod", description="How a process uses its devices: horovod, mirrored, hybrid.")
    lr: LearningRate | None = Field(None, description="A rate that scales with the batch, instead of a learning_rate.")
    weight_decay_on: Literal["kernels", "all"] = Field("kernels", description="kernels: not biases and batch norm.")
    loss: str = Field("sparse_categorical_crossentropy", description="A Keras loss.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="For a categorical crossentropy.")
    metrics: tuple[str, ...] = Field(("accuracy",), description="Keras metrics.")
    batch_size: BatchSize = Field(BatchSize(per_rank=32), description="Samples per step on each rank, or {global: n}.")
    per_rank_batch: Literal["equal", "auto"] = Field("equal", description="auto: slower ranks get smaller batches.")
    epochs: _Count = Field(20, description="Passes over the data.")
    proof_every_steps: _Count | None = Field(None, description="How often to check the ranks; None: once per epoch.")
    noise_scale: bool = Field(False, description="Log the gradient noise scale, an estimate of the useful batch size.")
    save: str | None = Field(None, description="Write the trained model here (.keras), from rank 0.")
    checkpoint: Checkpoint = Checkpoint()
    launch: Launch = Launch()

    @field_validator("optimizer")
    @classmethod
    def _accumulates(cls, optimizer: Named) -> Named:
        steps = optimizer.arguments().get("gradient_accumulation_steps")
        if steps is not None and (type(steps) is not int or not 1 <= steps < 2**53):
            raise ValueError(f"gradient_accumulation_steps must be a whole number of at least 1, not {shown(steps)}")
        return optimizer

    @property
    def accumulation(self) -> int:
        """Steps whose gradients are accumulated for one update."""
        return self.optimizer.arguments().get("gradient_accumulation_steps") or 1

    def batch_of_each(self, ranks: int) -> int:
        """Samples per step on each rank, for this number of ranks.

        Raises:
            ConfigError: the global batch is not divisible by the ranks and accumulated steps.
        """
        if self.batch_size.per_rank is not None:
            return self.batch_size.per_rank
        whole, parts = self.batch_size.global_, ranks * self.accumulation
        if whole % parts:
            near = max(whole // parts, 1) * parts
            raise ConfigError(
                f"`batch_size.global`: {whole} samples cannot be divided equally among {ranks} ranks x "
                f"{self.accumulation} accumulated steps.",
                fix=f"use {near} or {near + parts}.",
            )
        return whole // parts


def load(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a YAML file, lay ``a.b=c`` overrides over it, and validate.

    Args:
        path: the YAML file.
        overrides: ``"a.b=c"`` each; the value is read as YAML.

    Raises:
        ConfigError: the file does not exist or is not YAML, a key is unknown (the most similar known key is named), a
            value is not valid, or an override has no ``=``.
    """
    path = Path(path)
    tree = _read(path)
    for override in overrides:
        _apply(tree, override)
    for key, field in Config.model_fields.items():
        if isinstance(field.default, _Section) and tree.get(key, key) is None:  # all that is in it is commented out
            del tree[key]
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        what, fix = _first(error, tree)
        raise ConfigError(f"{path}: {what}", fix=fix) from None
    _check_choices(config, path)
    return config


def _check_choices(config: Config, path: Path) -> None:
    """Refuse names of nothing before any rank starts; optimizers, losses and metrics only Keras knows."""
    strategy = config.strategy if isinstance(config.strategy, str) else config.strategy.name
    chosen = {"data.name": (config.data.name, DATA), "model.name": (config.model.name, MODELS)}
    chosen |= {"strategy": (strategy, STRATEGIES)}
    chosen = {key: each for key, each in chosen.items() if ":" not in each[0]}  # else it is the user's own
    asked = {"engine": (config.engine, ENGINES), "launch.launcher": (config.launch.launcher, LAUNCHERS)}
    chosen |= {key: each for key, each in asked.items() if each[0] != "auto"}
    for key, (name, choice) in chosen.items():
        try:
            choice.check(name)
        except UsageError as error:
            raise ConfigError(f"{path}: `{key}`: {error.what}", fix=error.fix) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = strict_yaml.read_file(path)
    except FileNotFoundError:
        folder = path.parent
        near = suggestion(path.name, [p.name for p in folder.glob("*.y*ml")]) if folder.is_dir() else None
        raise ConfigError(f"The configuration {path} does not exist.", fix=near) from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"The configuration {path} should be a mapping of keys to values, but is a {_kind(tree)}.")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.split(".")
    if not equals or not all((*parents, last)) or len(parents) > strict_yaml.DEEPEST:
        raise ConfigError(
            f"--set takes key=value, such as --set optimizer.learning_rate=0.01. Received: {shown(override)}."
        )
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        child = tree[parent]
        if not isinstance(child, dict):
            raise ConfigError(f"--set {_named(key)}: {shown(parent)} is a {_kind(child)}, which has no keys.")
        tree = child
    tree[last] = strict_yaml.read_text(text, f"--set {_named(key)}: the value {shown(text)}")


def _kind(value: Any) -> str:
    return {list: "list", str: "text", int: "number", float: "number", bool: "yes or no"}.get(type(value), "value")


def _named(key: Any) -> str:
    """A key as the user wrote it, or in quotes where it would not be seen as what it is."""
    text = str(key)
    return text if text.isprintable() and len(text) <= 80 else shown(text, 80)


def _first(error: ValidationError, tree: dict[str, Any]) -> tuple[str, str | None]:
    """What is wrong first, at the place where the user wrote it, and what to do."""
    found = [(_place(each, tree), each) for each in error.errors(include_url=False)]
    begin = found[0][0]
    # Where one of several kinds is wanted, each says why not: those say most that looked deepest into what is there.
    here = [(place, each) for place, each in found if place[: len(begin)] == begin]
    where = max((place for place, _ in here), key=len)
    each = [each for place, each in here if place == where]
    named = ".".join(_named(part) for part in where)
    for kind, says in (("extra_forbidden", f"unknown key `{named}`."), ("missing", f"the key `{named}` is missing.")):
        if each[0]["type"] == kind:
            return says, _near(each[0]["loc"]) if kind == "extra_forbidden" else None
    reasons = dict.fromkeys(_reason(one) for one in each)
    return f"`{named}`: {', or '.join(reasons)}. Received: {shown(each[0]['input'])}.", None


def _place(each: Any, tree: Any) -> tuple[int | str, ...]:
    """The path of keys that stand in the file: pydantic's own also names kinds, as `constrained-int`."""
    place = []
    for part in each["loc"]:
        if (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and part in range(len(tree))):
            tree = tree[part]
            place.append(part)
    return (*place, each["loc"][-1]) if each["type"] == "missing" else tuple(place)


def _reason(each: Any) -> str:
    if each["type"] == "value_error":  # of ours, which may name an argument of Python's and what it received
        text = str(each["ctx"]["error"]).splitlines()[0].partition(" Received: ")[0].removesuffix(".")
        return re.sub(r"^`\w+` ", "", text)
    return f"{each['msg'][0].lower()}{each['msg'][1:]}"


def _near(loc: tuple[int | str, ...]) -> str:
    section: Any = Config
    for part in loc[:-1]:
        section = section.model_fields[part].annotation
        section = next(s for s in (*get_args(section), section) if isinstance(s, type) and issubclass(s, _Section))
    known = [field.alias or name for name, field in section.model_fields.items()]
    return suggestion(str(loc[-1]), known) or f"known here: {', '.join(known)}."
