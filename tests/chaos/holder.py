"""A job that owns a directory, saves once, and stays: ``python -m tests.chaos.holder DIR JOB``."""

from __future__ import annotations

import sys
import time

from hvdkit.checkpoint.storage.lock import DirectoryLock
from hvdkit.checkpoint.storage.store import Store
from tests.chaos.common import save

if __name__ == "__main__":
    owner = DirectoryLock(sys.argv[1], job=sys.argv[2]).acquire()
    save(Store(sys.argv[1]), 1)
    print("ready", flush=True)
    time.sleep(600)
