"""Models for others: ``.keras`` and ``.weights.h5`` files, which are written atomically."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import keras

from hvdkit.checkpoint import state
from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.store import Checkpoint
from hvdkit.checkpoint.storage.writer import writing
from hvdkit.comm import world
from hvdkit.errors import UsageError
from hvdkit.keras_internals.model_contents import refresh_normalization
from hvdkit.utils.serializable import serializable_classes
from hvdkit.utils.stateful import Kind, combine

ENDINGS = (".weights.h5", ".keras", ".h5")


def export(model: keras.Model, path: str | os.PathLike) -> None:
    """Write a model to a file for plain Keras, on rank 0. The file is replaced atomically.

    Args:
        model: a built model.
        path: a path that ends in ``.keras`` (the model) or ``.weights.h5`` (its weights).

    Raises:
        UsageError: the path has another suffix.
        CheckpointWriteError: the disk is full, read-only or broken.

    Example:

    >>> import tempfile, hvdkit as hvd
    >>> hvd.init()
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> hvd.checkpoint.export(model, tempfile.mkdtemp() + "/model.keras")
    """
    if world.rank() == 0:
        write_model(model, Path(path))


def write_model(model: keras.Model, target: Path) -> None:
    """``export`` on this process, without a world."""
    if not target.name.endswith(ENDINGS):
        raise UsageError(f"A model cannot be exported as {target.name!r}.", fix=f"an ending of {', '.join(ENDINGS)}.")
    with writing("The model could not be exported", target, "what was there is"):
        target.parent.mkdir(parents=True, exist_ok=True)
        incoming = target.with_name(f".incoming-{target.name}")  # beside it, or it could not be renamed; same ending
        try:
            if target.name.endswith(ENDINGS[0]):
                model.save_weights(incoming, overwrite=True)
            else:
                model.save(incoming, overwrite=True)
            with disk.reading(incoming) as (descriptor, _):
                disk.fsync(descriptor)
            disk.rename(incoming, target)
            disk.sync_directory(target.parent)
        finally:
            incoming.unlink(missing_ok=True)


def model_of(checkpoint: Checkpoint, modules: tuple[str, ...] = ()) -> keras.Model:
    """The model of a checkpoint, with its weights, or their mean over the ranks; batch statistics are rank 0's.

    Args:
        checkpoint: written by ``CheckpointCallback`` or ``save``.
        modules: to import first: those that register classes of the model's own.

    Raises:
        UsageError: the checkpoint has no model that Keras can make anew.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise UsageError(
                f"--import {name}: it cannot be imported: {type(error).__name__}: {error}",
                fix="name a module of this directory or of this Python, without .py.",
            ) from error
    config = checkpoint.manifest.state.get("model")
    where = str(checkpoint.path)
    if not isinstance(config, str):
        raise UsageError(
            f"{where} contains weights but no model, because Keras could not serialize the model.",
            fix="create it in Python, then hvd.checkpoint.restore(model, directory) and .export(model, path).",
        )
    try:
        model = keras.models.model_from_json(config, custom_objects=serializable_classes())
    except (TypeError, ValueError, ImportError) as error:
        raise UsageError(
            f"The model of {where} cannot be created: {error}",
            fix="--import the module that registers its custom classes (keras.saving.register_keras_serializable).",
        ) from error
    homes = {
        n: p for p in checkpoint.manifest.parts if p == "rank-00000" or p[:6] == "common" for n in checkpoint.names(p)
    }
    read = lambda name: checkpoint.get(homes[name], name)
    training = state.TrainingState(model)
    together = _with_means(checkpoint, training.common)
    for kind, variables in (("weights/", together), ("own/", training.per_rank)):
        wanted = {name: v for name, v in variables.items() if name.startswith(kind)}
        # Behind them there may be slots of variables that were kept local.
        state.assign(wanted, read, sorted(n for n in homes if n.startswith(kind))[: len(wanted)], where)
    refresh_normalization(model)
    return model


def _with_means(checkpoint: Checkpoint, variables: dict[str, Any]) -> dict[str, Any]:
    """Give the weights that were each rank's own their mean; the others, by their places among the rest."""
    ranks = [part for part in checkpoint.manifest.parts if part.startswith("rank-")]
    parts = {part: {int(n.split("/")[1]): n for n in checkpoint.names(part) if n[:6] == "apart/"} for part in ranks}
    weights = [v for name, v in variables.items() if name.startswith("weights/")]
    for place in parts[ranks[0]]:
        values = [checkpoint.get(part, parts[part][place]) for part in ranks]
        weights[place].assign(combine(Kind.MEAN, values, 0, f"the weight {place}"))
    rest = [v for i, v in enumerate(weights) if i not in parts[ranks[0]]]
    return {f"weights/{i:05d}": v for i, v in enumerate(rest)}
