"""Learning rates for large batches: scaling rules, warm-up, what comes after. Loaded on first use.

schedule = hvd.schedules.large_batch(0.1, base_batch_size=256, batch_size=64, steps_per_epoch=len(train), epochs=90)
optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(schedule, momentum=0.9))
"""

from __future__ import annotations

from hvdkit.utils.registry import lazy

_HOME = {
    "large_batch": "hvdkit.schedules.schedule:large_batch",
    "LargeBatchSchedule": "hvdkit.schedules.schedule:LargeBatchSchedule",
    "scale": "hvdkit.schedules.formula.scaling:scale",
    "SCALING": "hvdkit.schedules.formula.scaling:SCALING",
    "WarmupThenDecay": "hvdkit.schedules.formula.warmup_then_decay:WarmupThenDecay",
    "DECAYS": "hvdkit.schedules.formula.decay:DECAYS",
}

__all__ = list(_HOME)

__getattr__, __dir__ = lazy(globals(), _HOME, {"Recipe": "WarmupThenDecay", "CURVES": "DECAYS"})
