"""What the tests of the drop-in surface do on every rank: each check returns what its test looks at.

The intent of Horovod 0.28.1's own Keras tests, for Keras 3.
"""

from __future__ import annotations

import hvdkit as hvd
from tests.optim import loss_scale_checks, model_checks, optimizer_checks, small_checks, tape_checks


def everything() -> dict:
    """All of it, in one launch."""
    checks = {
        "aggregation sum": lambda: optimizer_checks.aggregation(False, 0),
        "aggregation mean": lambda: optimizer_checks.aggregation(True, 0),
        "aggregation sum, local": lambda: optimizer_checks.aggregation(False, 2),
        "aggregation mean, local": lambda: optimizer_checks.aggregation(True, 2),
        "inf": optimizer_checks.aggregation_after_inf,
        "embedding": optimizer_checks.embedding_aggregation,
        "sparse": optimizer_checks.sparse_where_keras_raises,
        "passes": optimizer_checks.passes_are_accumulation_steps,
        "built": optimizer_checks.passes_after_building,
        **{f"partial {n}": lambda n=n: optimizer_checks.partial(n) for n in range(3)},
        "tape": tape_checks.tape,
        "tape in fit": tape_checks.tape_in_fit,
        "compressions": optimizer_checks.compressions,
        "adasum": optimizer_checks.adasum,
        "from_config": optimizer_checks.from_config,
        "differ": loss_scale_checks.gradients_that_differ,
        "load": model_checks.load_model,
        "load on rank 0": model_checks.load_on_rank_0,
        "broadcast": model_checks.broadcast_global,
        "timeline": small_checks.timeline,
        "loss scale": loss_scale_checks.two_loss_scales,
        "one name": loss_scale_checks.one_name_twice,
        "local loss scale": loss_scale_checks.local_loss_scale,
        "loaded passes": model_checks.loaded_passes,
        "smaller": small_checks.smaller_things,
    }
    results = {}
    for name, check in checks.items():
        try:
            results[name] = check()
        except Exception as error:
            import traceback

            results[name] = {"raised": f"{error}\n{traceback.format_exc()[-3000:]}"}
        hvd.barrier()
    return results
