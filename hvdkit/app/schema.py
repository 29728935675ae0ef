"""What a configuration of ``hvdkit train`` may hold: its sections, their values and defaults."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hvdkit.app.strict_yaml import shown
from hvdkit.engines import ENGINES
from hvdkit.errors import ConfigError
from hvdkit.launch.launcher import starters
from hvdkit.utils.deprecation import warn_deprecated
from hvdkit.utils.numbers import seconds_of

# As large as a float holds exactly: far beyond it means nothing, and what is computed of it overflows.
_Count = Annotated[int, Field(ge=1, lt=2**53)]
_Rate = Annotated[float, Field(ge=0, lt=1e15)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_by_name=True)
    #: The new name of each key that has another name now.
    old_names: ClassVar[dict[str, str]] = {}


class Named(Section):
    """Something chosen by name, with the arguments it takes."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    def arguments(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})


class Data(Section):
    """What to train on."""

    name: str = Field("digits", description="`digits`, or `module:function` that returns ((x, y), (x_test, y_test)).")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(1 / 3, description="The fraction held out for the test.")


class BatchSize(Section):
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


class LearningRate(Section):
    """The learning rate of a small batch, scaled to this batch: see `hvd.schedules.large_batch`."""

    old_names: ClassVar[dict[str, str]] = {"base_batch": "base_batch_size", "after": "decay"}
    base: _Rate = Field(gt=0, description="The rate that was found for base_batch_size.")
    base_batch_size: _Count = Field(256, description="Samples per update for which `base` was tuned.")
    scale: str = Field("linear", description="none, linear (SGD) or sqrt (Adam, LAMB).")
    warmup_epochs: Annotated[float, Field(ge=0, lt=2**53)] = Field(
        5, description="Epochs in which the rate rises to the scaled rate."
    )
    warmup_from: _Rate | None = Field(None, description="The rate at the start of the warm-up; None: `base`.")
    decay: str | Named = Field("cosine", description="constant, step, cosine, polynomial; or {name: ..., arguments}.")


class LocalSGD(Section):
    """Each rank trains for some steps, then the weights are averaged: see `hvd.optim.LocalSGD`."""

    old_names: ClassVar[dict[str, str]] = {"k": "sync_period", "start": "start_step"}
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


class Checkpoint(Section):
    """Where the training is saved, and from where it resumes."""

    dir: str | None = Field(None, description="The directory; None saves nothing.")
    every: _Count | Literal["auto", "epoch"] = Field("auto", description="A number of steps, auto or epoch.")
    keep: _Count = Field(3, description="How many of the newest checkpoints to keep.")
    resume: Literal["auto", "never"] = Field("auto", description="Resume from the newest valid checkpoint, or never.")
    max_time: Annotated[float | str | None, BeforeValidator(_duration)] = Field(
        None, description='Save and exit with code 75 after this time: "3:50:00", or seconds.'
    )


class Launch(Section):
    """How to start the ranks, when `hvdkit train` was not itself started by a launcher."""

    np: _Count = Field(1, description="The number of ranks.")
    launcher: str = Field("auto", description=f"What starts them: auto, {', '.join(starters())}.")


def _strategy(value: Any) -> Any:
    name = value.get("name") if isinstance(value, dict) else value
    new = {"horovod": "none", "hybrid": "mirrored_per_host"}.get(name) if isinstance(name, str) else None
    if new is None:
        return value
    warn_deprecated(f"`strategy: {name}` in a configuration", f"`strategy: {new}`")
    return {**value, "name": new} if isinstance(value, dict) else new


class Config(Section):
    """Everything `hvdkit train` needs to know."""

    old_names: ClassVar[dict[str, str]] = {"proof_every_steps": "consistency_check_every"}
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(1, description="Makes the model the same on every rank.")
    data: Data = Data()
    model: Named = Field(
        Named(name="cnn"), description="`cnn`, `resnet`, `mlp` or `module:function`, with its arguments."
    )
    optimizer: Named = Field(Named(name="adam"), description="Any Keras optimizer, or `lars`, with its arguments.")
    compression: str | Named = Field("none", description="How gradients are compressed: none, fp16.")
    local_sgd: LocalSGD | None = Field(None, description="Average weights every few steps instead of gradients.")
    engine: str = Field("auto", description=f"What moves the bytes: auto, {', '.join(ENGINES.names())}.")
    strategy: Annotated[str | Named, BeforeValidator(_strategy)] = Field(
        "none", description="A process' devices: none, mirrored, mirrored_per_host."
    )
    lr: LearningRate | None = Field(None, description="A rate that scales with the batch, instead of a learning_rate.")
    weight_decay_on: Literal["kernels", "all"] = Field("kernels", description="kernels: not biases and batch norm.")
    loss: str = Field("sparse_categorical_crossentropy", description="A Keras loss.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="For a categorical crossentropy.")
    metrics: tuple[str, ...] = Field(("accuracy",), description="Keras metrics.")
    batch_size: BatchSize = Field(BatchSize(per_rank=32), description="Samples per step on each rank, or {global: n}.")
    per_rank_batch: Literal["equal", "auto"] = Field("equal", description="auto: slower ranks get smaller batches.")
    epochs: _Count = Field(20, description="Passes over the data.")
    consistency_check_every: _Count | None = Field(
        None, description="How often to check the ranks; None: once per epoch."
    )
    noise_scale: bool = Field(
        False, description="Log the gradient noise scale, which estimates the largest useful batch."
    )
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


def section_of(parent: type[Section], key: int | str) -> type[Section] | None:
    """The section that a key of another one holds; None where it holds a value.

    >>> section_of(Config, "lr").__name__, section_of(Config, "epochs")
    ('LearningRate', None)
    """
    field = parent.model_fields.get(str(key))
    kinds = () if field is None else (*get_args(field.annotation), field.annotation)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
