"""Metrics over all ranks, exactly: their sums and counts are added up, instead of averaging their results.

Every metric of Keras keeps sums (a total and a count; true positives at each threshold; a confusion matrix), so the
sums of all ranks are those of one process that saw all samples.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from hvdkit.comm import exchange
from hvdkit.keras_internals.models import samples_in_loss


def metric_states(model: keras.Model) -> dict[str, Any]:
    """The sums and counts of a model's metrics, and their results on this rank alone."""
    return {"counted": [np.array(v.numpy()) for v in model.metrics_variables], "results": _results(model)}


def _results(model: keras.Model) -> dict[str, Any]:
    """A number each; of a metric with one per class (``F1Score``), an array."""
    if not all(getattr(m, "built", True) for m in model.metrics):  # a train step of one's own may never use them
        return {}
    return {k: float(v) if np.ndim(v) == 0 else np.asarray(v) for k, v in model.get_metrics_result().items()}


def summable_names(model: keras.Model, state: dict[str, Any], logs: dict[str, Any], prefix: str = "") -> list[str]:
    """The entries of ``logs`` that are results of metrics which can be added up.

    A train step of a user's own may return a number under a metric's name that is not the metric's.
    """
    if not all(_is_sum(m) for m in model.metrics):
        return []
    results = {prefix + name: value for name, value in state["results"].items()}
    close = lambda a, b: np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-5, equal_nan=True)
    return sorted(n for n in results if n in logs and close(results[n], logs[n]))


def merge_states(model: keras.Model, states: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of a model's metrics over the sums of several states; the metrics are left as they are."""
    variables = model.metrics_variables
    before = [np.array(v.numpy()) for v in variables]
    try:
        for i, variable in enumerate(variables):
            sums = np.sum([np.asarray(s["counted"][i], np.float64) for s in states], axis=0)
            variable.assign(sums.astype(before[i].dtype))
        return _results(model)
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def weighted_mean(weights: list[float], values: list[float]) -> float:
    """The mean over ranks by their samples. A rank without samples takes no part: its mean over nothing may be NaN.

    >>> weighted_mean([2.0, 1.0, 0.0], [3.0, 6.0, float("nan")])
    4.0
    """
    seen = [(w, v) for w, v in zip(weights, values, strict=True) if w > 0] or [(1.0, v) for v in values]
    return sum(w * v for w, v in seen) / sum(w for w, _ in seen)


def all_reduce_metrics(model: keras.Model, logs: dict[str, Any]) -> dict[str, Any]:
    """The ``logs`` of each rank, reduced over all of them; collective.

    Sums, if all metrics can be added up; means weighted by samples for what is no metric's, and if one cannot.
    """
    own_state = metric_states(model)
    sums = summable_names(model, own_state, logs)
    samples = samples_in_loss(model)
    plain = {k: float(v) for k, v in logs.items() if np.ndim(v) == 0}
    weight = 1.0 if samples is None else samples
    own_state = {"counted": own_state["counted"], "sums": sums, "logs": plain, "weight": weight}
    per_rank = exchange.allgather_object(own_state, "evaluate: the metrics")
    weights = [rank["weight"] for rank in per_rank]
    merged_logs = {
        **logs,
        **{k: weighted_mean(weights, [rank["logs"].get(k, 0.0) for rank in per_rank]) for k in plain},
    }
    if all(rank["sums"] == sums for rank in per_rank) and sums:
        merged = merge_states(model, per_rank)
        merged_logs.update({k: merged[k] for k in sums})
    return merged_logs


def _is_sum(metric: Any) -> bool:
    """Whether a metric's variables may be added up: Keras' own, or one that says so by ``sum_over_ranks = True``."""
    if getattr(metric, "sum_over_ranks", False):
        return True
    module_of = lambda method: getattr(inspect.getmodule(getattr(type(metric), method)), "__name__", "")
    inner = getattr(metric, "metrics", ())  # what compile was given is one metric to the model
    return all(module_of(m).startswith("keras.") for m in ("update_state", "result")) and all(map(_is_sum, inner))
