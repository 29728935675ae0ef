"""All scripts on every rank, in one launch."""

from __future__ import annotations

import time
import traceback

import keras

import hvdkit as hvd
from tests.people import (
    scripts_callbacks,
    scripts_gan,
    scripts_layers,
    scripts_loops,
    scripts_sequences,
    scripts_teachers,
)
from tests.people.common import TAILS

FILES = (scripts_gan, scripts_teachers, scripts_sequences, scripts_layers, scripts_loops, scripts_callbacks)
SCRIPTS = {script.__name__: script for file in FILES for script in file.SCRIPTS}


def everything(wanted: list) -> dict:
    """Run scripts, each on as many samples as its tail says; of one that raised, the traceback.

    Args:
        wanted: pairs of a script's name and a tail.
    """
    results = {}
    for name, tail in wanted:
        begin = time.perf_counter()
        keras.utils.set_random_seed(0)  # a script may make layers before it sets a seed, and another ran before
        try:
            result = SCRIPTS[name](TAILS[tail])
        except Exception:
            result = {"raised": traceback.format_exc()[-6000:]}
        hvd.barrier()
        keras.backend.clear_session()
        results[f"{name} {tail}"] = {**result, "seconds": time.perf_counter() - begin}
    return results
