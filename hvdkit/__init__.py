"""hvdkit: Keras 3 on many processes, GPUs and hosts, with Horovod.

``import hvdkit as hvd`` loads the names below on first use (PEP 562): importing hvdkit imports no TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import Any

from hvdkit.utils.registry import suggestion
from hvdkit.version import __version__

_HOME = {
    "hvdkit.session": ("init", "shutdown"),
    "hvdkit.comm.world": (
        "is_initialized", "rank", "size", "local_rank", "local_size", "cross_rank", "cross_size", "is_chief",
        "gloo_built", "gloo_enabled", "mpi_built", "mpi_enabled", "mpi_threads_supported", "nccl_built", "cuda_built",
        "rocm_built", "ddl_built", "ccl_built", "start_timeline", "stop_timeline",
    ),
    "hvdkit.comm.ops": (
        "allreduce", "grouped_allreduce", "allgather", "broadcast", "alltoall", "reducescatter", "barrier",
    ),
    "hvdkit.comm.exchange": ("broadcast_object", "allgather_object"),
    "hvdkit.comm.process_sets": ("ProcessSet", "add_process_set", "remove_process_set", "global_process_set"),
    "hvdkit.comm.compression": ("Compression",),
    "hvdkit.comm.engine": ("ReduceOp",),
    "hvdkit.comm.variables": ("broadcast_variables", "broadcast_global_variables"),
    "hvdkit.random.seeds": ("set_seed",),
    "hvdkit.optim.distributed": ("DistributedOptimizer", "PartialDistributedOptimizer"),
    "hvdkit.optim.tape": ("DistributedGradientTape", "PartialDistributedGradientTape"),
    "hvdkit.optim.load": ("load_model",),
    "hvdkit.layers.sync_batch_norm": ("SyncBatchNormalization",),
    "hvdkit.comm.consistency": ("assert_equal_weights",),
    "hvdkit.trainer.fit": ("local_training",),
}  # fmt: skip
_NAMES = {name: home for home, names in _HOME.items() for name in names}
_REDUCE_OPS = {"Average": "AVERAGE", "Sum": "SUM", "Adasum": "ADASUM", "Min": "MIN", "Max": "MAX", "Product": "PRODUCT"}
_MODULES = (
    "callbacks", "checkpoint", "data", "errors", "launch", "layers", "losses", "optim", "schedules", "strategies",
    "testing",
)  # fmt: skip

__all__ = ["__version__", *_NAMES, *_REDUCE_OPS, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _REDUCE_OPS:
        value = getattr(importlib.import_module("hvdkit.comm.engine").ReduceOp, _REDUCE_OPS[name])
    elif name in _MODULES:
        value = importlib.import_module(f"hvdkit.{name}")
    else:
        near = suggestion(name, __all__)
        raise AttributeError(f"module 'hvdkit' has no attribute {name!r}" + (f"; {near}" if near else ""))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
