"""Does the built library load, and what can it do? Asked in a subprocess: a broken one may crash or hang."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field

from hvdkit.utils import env, programs

# The ranks' launchers: under their variables Horovod would look for a world that is not there.
_LAUNCHERS = ("HOROVOD_", "OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "MPI_LOCAL")

_KERAS = {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"}

_LOAD = """\
import json
import horovod.tensorflow as hvd
names = ("gloo", "mpi", "nccl", "cuda")
print("hvdkit:" + json.dumps({name: bool(getattr(hvd, name + "_built")()) for name in names}), flush=True)
hvd.init()
print("hvdkit:" + json.dumps({"size": hvd.size()}), flush=True)
hvd.shutdown()
"""


@dataclass(frozen=True)
class Loaded:
    """What the subprocess found. ``error``: why Horovod does not load. ``alone``: why hvd.init() of one process failed.

    The second is no fault of the build: some clusters' MPI starts inside a job only.
    """

    built: dict[str, bool] = field(default_factory=dict)
    error: str | None = None
    alone: str | None = None

    def __str__(self) -> str:
        return ", ".join(f"{name} {'yes' if built else 'no'}" for name, built in self.built.items())


def load(seconds: float = 180) -> Loaded:
    """Load Horovod in a separate process and initialize it there."""
    said = programs.listen([sys.executable, "-c", _LOAD], environ=alone(), seconds=seconds)
    if said.code is None:
        return _judge(_answers(said.out), f"it did not end within {seconds:.0f} s")
    return _judge(_answers(said.out), last_line(said.err) or f"the process ended with code {said.code}")


def _judge(answers: dict, last: str) -> Loaded:
    size = answers.pop("size", None)
    if not answers:
        return Loaded(error=last)
    return Loaded(answers, alone=None if size == 1 else last)


def alone() -> dict[str, str]:
    """The environment of a process that no launcher started, with the one Keras that Horovod loads under."""
    environ = {name: value for name, value in env.child().items() if not name.startswith(_LAUNCHERS)}
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **environ, **_KERAS}


def last_line(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.partition(":")[0].rpartition(".")[2].endswith(("Error", "Exception"))]
    return (named or lines or [""])[-1]


def _answers(said: str) -> dict:
    answers: dict = {}
    for line in said.splitlines():
        if line.startswith("hvdkit:"):
            answers |= json.loads(line.removeprefix("hvdkit:"))
    return answers
