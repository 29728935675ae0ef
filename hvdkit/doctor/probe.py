"""What TensorFlow, Keras and Horovod say when they are really loaded, asked of one subprocess.

It answers stage by stage, so that the stage at which it crashes or hangs is known.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hvdkit.horovod_build.verify import environment_without_launcher, last_line
from hvdkit.utils import programs

SECONDS = 120.0
_NO_ANSWER = "no answer"

_SCRIPT = """\
import json
def stage(name, ask):
    print("hvdkit:" + json.dumps({"begin": name}), flush=True)
    try:
        answer = ask()
    except BaseException as error:
        answer = {"error": type(error).__name__ + ": " + (str(error).strip().splitlines() or [""])[0]}
    print("hvdkit:" + json.dumps({name: answer}), flush=True)
def tensorflow():
    import tensorflow as tf
    return {"version": tf.__version__, "cuda": bool(tf.test.is_built_with_cuda())}
def keras():
    import keras
    return {"version": keras.__version__, "backend": keras.config.backend()}
def horovod():
    import horovod.tensorflow as hvd
    names = ("gloo", "mpi", "nccl", "cuda")
    return {"built": {name: bool(getattr(hvd, name + "_built")()) for name in names}}
def world():
    import horovod.tensorflow as hvd
    hvd.init()
    size = hvd.size()
    hvd.shutdown()
    return {"size": size}
def internals():
    from hvdkit.keras_internals.missing import missing
    return {"missing": missing()}
def gpus():
    import tensorflow as tf
    return {"names": [gpu.name for gpu in tf.config.list_physical_devices("GPU")]}
for ask in (tensorflow, keras, internals, gpus, horovod, world):
    stage(ask.__name__, ask)
"""


@dataclass(frozen=True)
class Probe:
    """What the stages answered, and how it ended where not all of them did.

    Args:
        answers: by the stage's name: ``{"tensorflow": {"version": ...}, "keras": {"error": ...}, ...}``.
        end: how the process ended that did not come to the rest.
    """

    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    end: str = _NO_ANSWER

    def reached(self, stage: str) -> bool:
        """Whether a stage began: of one that did not nothing is known, least of all that it failed."""
        return stage in self.answers

    def error(self, stage: str) -> str | None:
        """Why a stage failed or was not reached, or None."""
        return self.answers.get(stage, {"error": f"it was not reached: {self.end}"}).get("error")

    def get(self, stage: str, name: str, default: Any = None) -> Any:
        """One answer."""
        return self.answers.get(stage, {}).get(name, default)

    @classmethod
    def run(cls, *words: str, seconds: float = SECONDS) -> Probe:
        """Start the subprocess and wait for it.

        Args:
            words: what follows ``python``; by default a script that loads TensorFlow, Keras and Horovod.
            seconds: when to give up.
        """
        argv = [sys.executable, *(words or ("-c", _SCRIPT))]
        output, end = programs.listen(argv, environ=environment_without_launcher(), seconds=seconds), _NO_ANSWER
        if output.code is None:
            end = f"it hung: no answer within {seconds:.0f} s"
        elif output.code:
            code = f"signal {-output.code}" if output.code < 0 else f"code {output.code}"
            end = f"the process ended with {code}: {last_line(output.err)}"
        return cls(parse(output.out, end), end)


def parse(text: str, end: str = _NO_ANSWER) -> dict[str, Mapping[str, Any]]:
    """The answers in the subprocess's output; a stage that began and did not answer gets ``end`` as its error.

    >>> parse('hvdkit:{"begin": "gpus"}', "it hung")
    {'gpus': {'error': 'it hung'}}
    """
    answers: dict[str, Mapping[str, Any]] = {}
    for line in text.splitlines():
        if line.startswith("hvdkit:"):
            answer = json.loads(line.removeprefix("hvdkit:"))
            begun = answer.pop("begin", None)
            answers |= {begun: {"error": end}} if begun else answer
    return answers
