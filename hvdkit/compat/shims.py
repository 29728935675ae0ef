"""The shims under Horovod's names: which module of hvdkit answers for which of Horovod's, and what none answers for."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from hvdkit.compat.deprecations import GoneError, RefusedImportError

_TENSORFLOW, _KERAS, _CALLBACKS = "hvdkit.compat.for_tensorflow", "hvdkit.compat.for_keras", "hvdkit.callbacks"
_COMMON, _UTIL, _RUNNER = "hvdkit.compat.for_common", "hvdkit.compat.for_util", "hvdkit.compat.for_runner"
_INSIDE = "hvdkit.compat.for_keras_inside"
# Horovod's module -> hvdkit's modules that answer for it; the first one that has the name does.
HOMES: dict[str, tuple[str, ...]] = {
    "horovod": ("hvdkit.compat.for_horovod",),
    "horovod.common": (),
    "horovod.common.exceptions": (_COMMON,),
    "horovod.common.process_sets": (_COMMON,),
    "horovod.common.util": (_COMMON,),
    "horovod.runner": (),
    "horovod.runner.common": (),
    "horovod.runner.common.util": (),
    "horovod.runner.common.util.env": (_RUNNER,),
    "horovod.runner.util": (),
    "horovod.runner.util.threads": (_RUNNER,),
    "horovod.tensorflow": (_TENSORFLOW, _UTIL),
    "horovod.tensorflow.compression": (_TENSORFLOW,),
    "horovod.tensorflow.functions": (_TENSORFLOW,),
    "horovod.tensorflow.mpi_ops": (_TENSORFLOW, _UTIL),
    "horovod.tensorflow.sync_batch_norm": (_TENSORFLOW,),
    "horovod.tensorflow.util": (_UTIL,),
    "horovod.tensorflow.keras": (_KERAS,),
    "horovod.tensorflow.keras.callbacks": (_CALLBACKS,),
    "horovod.keras": (_KERAS,),
    "horovod.keras.callbacks": ("hvdkit.compat.for_keras_callbacks", _CALLBACKS),
    "horovod._keras": (_INSIDE,),
    "horovod._keras.callbacks": (_INSIDE,),
}
_BEYOND = "hvdkit trains Keras on TensorFlow; run this script with Horovod itself, without -m hvdkit.compat."
_START = "start the ranks from outside: horovodrun -np 4 python -m hvdkit.compat train.py, or `hvdkit run`."
_SAVE = (
    "save on rank 0 (keras.callbacks.BackupAndRestore, ModelCheckpoint) and start again with the ranks there are; "
    "the broadcast callback gives every rank what rank 0 restored."
)
# The last word of a name -> what to write instead.
FIXES = {
    "elastic": _SAVE,
    "torch": _BEYOND,
    "mxnet": _BEYOND,
    "data": "`hvdkit install-horovod`, whose own module it is; or share the data out with hvd.data.shard.",
    "spark": _START,
    "ray": _START,
    "runner": _START,
    "run": _START,
    "join": "give every rank the same number of batches; hvd.barrier() waits for all.",
    "BroadcastGlobalVariablesHook": "hvd.callbacks.BroadcastGlobalVariablesCallback(0) in model.fit.",
    "is_homogeneous": "len(set(hvd.allgather_object(hvd.local_size()))) == 1.",
    "LocalGradientAggregationHelper": "hvd.DistributedOptimizer(..., backward_passes_per_step=k).",
}
# What hvdkit has under the same name as Horovod.
SHARED = frozenset({
    "init", "shutdown", "is_initialized", "start_timeline", "stop_timeline", "size", "local_size", "cross_size", "rank",
    "local_rank", "cross_rank", "mpi_threads_supported", "mpi_enabled", "mpi_built", "gloo_enabled", "gloo_built",
    "nccl_built", "ddl_built", "ccl_built", "cuda_built", "rocm_built", "ProcessSet", "global_process_set",
    "add_process_set", "remove_process_set", "Average", "Sum", "Adasum", "Min", "Max", "Product", "Compression",
    "broadcast_global_variables", "barrier", "DistributedGradientTape", "PartialDistributedGradientTape",
    "DistributedOptimizer", "PartialDistributedOptimizer", "SyncBatchNormalization", "load_model",
    "callbacks",
})  # fmt: skip


def make_shim(name: str) -> ModuleType:
    """The module that answers for one of Horovod's.

    Raises:
        RefusedImportError: hvdkit has nothing for it; with what to write instead.
    """
    homes = HOMES.get(name)
    if homes is None:
        raise RefusedImportError(f"hvdkit does not stand in for {name}.", fix=_fix(name))
    module = ModuleType(name, f"hvdkit's shim for {name}.")

    def lookup(attribute: str) -> Any:
        value = _lookup(name, homes, attribute)
        setattr(module, attribute, value)
        return value

    module.__getattr__ = lookup
    return module


def _lookup(name: str, homes: tuple[str, ...], attribute: str) -> Any:
    if f"{name}.{attribute}" in HOMES:
        return importlib.import_module(f"{name}.{attribute}")
    modules = [importlib.import_module(home) for home in homes]
    for module in modules:
        if attribute in module.__all__:
            return getattr(module, attribute)
    hvdkit = importlib.import_module("hvdkit")
    shared = SHARED.intersection(hvdkit.__all__) if {_TENSORFLOW, _KERAS}.intersection(homes) else set()
    if attribute in shared:
        return getattr(hvdkit, attribute)
    if attribute == "__all__":
        return sorted(shared.union(*({one for one in module.__all__ if not one.startswith("_")} for module in modules)))
    if attribute.startswith("__"):
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
    raise GoneError(f"hvdkit does not stand in for {name}.{attribute}.", fix=_fix(f"{name}.{attribute}"))


def _fix(name: str) -> str:
    words = name.split(".")[1:]
    known = [FIXES[word] for word in words if word in FIXES]
    return known[0] if known else "`import hvdkit as hvd` has what it has for Keras; dir(hvd) lists it."
