"""``python -m hvdkit.launch.watchdog RUN_ID RUN_DIR``: ends a run whose ``hvdkit run`` was killed with SIGKILL.

It waits on a pipe that only ``hvdkit run`` holds. A byte means that all is done; the end of the pipe without one means
that ``hvdkit run`` is gone: then every process of the run is ended and the run directory removed.
"""

from __future__ import annotations

import os
import sys


def main(argv: list[str]) -> int:
    """Wait for the byte, or clean up."""
    run_id, run_dir = argv
    if os.read(0, 1):
        return 0
    import shutil

    from hvdkit.launch.terminate import terminate

    left = terminate(run_id, grace_seconds=8.0)
    shutil.rmtree(run_dir, ignore_errors=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
