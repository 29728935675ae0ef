"""Real ranks for tests: run a function on several processes and collect the return values.

>>> from hvdkit.testing import run_ranks
>>> # in a test file: def total(): import hvdkit as hvd; return float(hvd.allreduce(1.0, op=hvd.Sum))
>>> # run_ranks(2, total).values == [2.0, 2.0]
"""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdkit.comm import serialization
from hvdkit.utils import env


@dataclass(frozen=True)
class Ranks:
    """The result of a run on several ranks.

    ``values`` contains the function's return value on each rank, or None if it did not return; ``output`` contains
    everything that the ranks printed.
    """

    returncode: int
    values: list
    output: str


def run_ranks(
    n: int,
    function: Callable[..., Any],
    *args: Any,
    launcher: str = "auto",
    check: bool = True,
    timeout: float = 300.0,
    environ: dict[str, str] | None = None,
    init: bool = True,
) -> Ranks:
    """Call ``function(*args)`` on ``n`` real ranks, after ``hvd.init()``.

    Args:
        n: the number of ranks, all on this host.
        function: a function at the top level of a file, which is imported on each rank.
        args: JSON-like data and NumPy arrays; the return values must be of the same kinds.
        launcher: ``"auto"``, ``"horovodrun"`` or ``"mpirun"``: see ``hvdkit run --help``.
        check: raise an error if the run fails; otherwise see ``returncode`` and ``output``.
        timeout: seconds after which everything is killed.
        environ: variables to add to this process' environment.
        init: False leaves ``hvd.init(...)`` to the function.

    Raises:
        AssertionError: the run failed, and ``check`` is True; the message contains the output.
        subprocess.TimeoutExpired: the run took longer than ``timeout``.
    """
    with tempfile.TemporaryDirectory(prefix="hvdkit-ranks-") as directory:
        folder = Path(directory)
        (folder / "args").write_bytes(serialization.encode(list(args)))
        command = [sys.executable, "-m", "hvdkit", "run", "-np", str(n), "--launcher", launcher]
        command += ["-m", "hvdkit.testing", inspect.getfile(function), function.__qualname__, directory]
        command += [] if init else ["--no-init"]
        variables = env.child({"TF_CPP_MIN_LOG_LEVEL": "2", **(environ or {})})
        done = subprocess.run(
            command,
            env=variables,
            timeout=timeout,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        paths = [folder / f"rank{rank}" for rank in range(n)]
        values = [serialization.decode(path.read_bytes()) if path.exists() else None for path in paths]
    if check and done.returncode:
        raise AssertionError(f"{function.__qualname__} failed on {n} ranks ({launcher}):\n{done.stdout[-20000:]}")
    return Ranks(done.returncode, values, done.stdout)


def _on_this_rank(path: str, name: str, directory: str, *options: str) -> None:
    import hvdkit as hvd

    if "--no-init" not in options:
        hvd.init()
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(path).parent))
    spec.loader.exec_module(module)
    arguments = serialization.decode((Path(directory) / "args").read_bytes())
    value = getattr(module, name)(*arguments)
    (Path(directory) / f"rank{hvd.rank()}").write_bytes(serialization.encode(value))


if __name__ == "__main__":
    _on_this_rank(*sys.argv[1:])
