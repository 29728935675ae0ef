"""What the scripts have in common: the same samples and the same global batch in every world."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import hvdkit as hvd

GLOBAL_BATCH = 12
# Full steps only; a last step in which ranks have unequal numbers; a last step that leaves ranks without samples.
TAILS = {"even": 36, "uneven": 41, "empty": 37}


def numbers(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype("float32")


def labels(x: np.ndarray, classes: int = 3) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    return (flat @ np.random.default_rng(9).normal(size=(flat.shape[1], classes))).argmax(1).astype("int32")


def shard(x: Any, y: Any = None, **how: Any) -> Any:
    """A rank's part of each global batch, in an order that is the same in every world."""
    return hvd.data.shard(x, y, batch_size=GLOBAL_BATCH // hvd.size(), **{"seed": 5, **how})


def sgd(rate: float = 0.1, **how: Any) -> Any:
    return hvd.DistributedOptimizer(keras.optimizers.SGD(rate, momentum=0.9, **how))


def ended(*models: Any, history: Any = None, own: Any = (), **state: Any) -> dict:
    """What a script ends with: weights and numbers of one process too; ``own`` is equal between the ranks only."""
    logs = getattr(history, "history", history) or {}
    return {
        "weights": [np.asarray(w) for m in models for w in (m if isinstance(m, list) else m.get_weights())],
        "state": {k: np.asarray(v) for k, v in state.items()},
        "history": {k: [np.asarray(v, "float64") for v in values] for k, values in logs.items()},
        "own": [np.asarray(w) for w in own],
    }
