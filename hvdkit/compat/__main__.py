"""``python -m hvdkit.compat SCRIPT ARGS`` (or ``-m MODULE ARGS``): ``python SCRIPT ARGS`` with hvdkit for Horovod."""

from __future__ import annotations

import os
import runpy
import sys
from types import TracebackType

from hvdkit.compat import finder
from hvdkit.errors import UsageError
from hvdkit.launch.program import module_program, script_program

USAGE = """\
usage: python -m hvdkit.compat SCRIPT [ARGS]...
       python -m hvdkit.compat -m MODULE [ARGS]...

Runs a Keras script that was written for Horovod, unmodified, on hvdkit. On four ranks:

  horovodrun -np 4 python -m hvdkit.compat train.py --epochs 3
  hvdkit run -np 4 -m hvdkit.compat train.py --epochs 3

What the script says in Keras 2's words is put into Keras 3's; rank 0 says once for each what to write instead."""


def main(argv: list[str]) -> int:
    """Run the program the arguments name; returns the exit code of one that did not end by itself."""
    if not argv or argv[0] in {"-h", "--help"}:
        print(USAGE, file=sys.stderr if not argv else sys.stdout)
        return 0 if argv else 2
    try:
        program = module_program(argv[1:2], argv[2:]) if argv[0] == "-m" else script_program(argv)
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    finder.install_finder()
    try:
        _run(program)
    except Exception as error:  # noqa: BLE001  shown as Python shows it
        frames = _without_own_frames(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        return 1
    return 0


def _run(program: tuple[str, ...]) -> None:
    if program[0] == "-m":
        sys.argv = list(program[1:])  # the name becomes the file's in run_module
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        return
    sys.argv = list(program)
    if not getattr(sys.flags, "safe_path", False):  # Python 3.11's -P
        script = os.path.realpath(program[0])
        sys.path[0] = script if os.path.isdir(script) else os.path.dirname(script)
    runpy.run_path(program[0], run_name="__main__")


def _without_own_frames(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the script's first line on, as if Python itself had run it."""
    own_files = (__file__, runpy.__file__, "<frozen runpy>")
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename in own_files:
        frames = frames.tb_next
    return frames


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
