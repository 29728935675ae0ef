"""What goes wrong on several ranks ends soon, with an error that says what and where."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.launch.identity import launch_info
from hvdkit.testing import run_ranks
from tests.machine import needs

pytestmark = pytest.mark.dist


def _fit(callbacks=()):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    model.fit(np.ones((64, 3)), np.ones((64, 1)), batch_size=4, verbose=0, callbacks=list(callbacks))


class _Raise(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 5 and hvd.rank() == 1:
            raise ValueError("the disk on rank 1 is on fire")


class _Leave(keras.callbacks.Callback):
    """Rank 1 goes on alone for a while: alive, and not in the collective."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 5 and hvd.rank() == 1:
            time.sleep(600)


class _End(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 5 and hvd.rank() == 1:
            sys.exit(0)


def raises() -> None:
    if launch_info().rank == 1:  # after it has left the world its Python takes long to end: rank 0 is gone before
        atexit.register(time.sleep, 12)
    hvd.init()
    _fit([_Raise()])


def ends() -> None:
    _fit([_End()])


def leaves() -> None:
    _fit([_Leave()])


@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_a_rank_that_raises(launcher):
    if launcher == "mpirun":
        needs("mpirun")
    begin = time.monotonic()
    done = run_ranks(2, raises, launcher=launcher, check=False, init=False)
    assert done.returncode == 1
    assert "the disk on rank 1 is on fire" in done.output.splitlines()[-1]
    assert "rank 1" in done.output.split("failed first")[0].splitlines()[-1]
    assert time.monotonic() - begin < 120


@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_a_rank_that_ends_early_is_named(launcher):
    if launcher == "mpirun":
        needs("mpirun")
    done = run_ranks(2, ends, launcher=launcher, check=False)
    assert done.returncode == 1
    said = done.output[done.output.index("hvdkit: rank 0 of 2") :].splitlines()[1]
    assert said.startswith("  Rank 1 ") and said.endswith(" before that and left the others waiting.")


@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_a_rank_that_does_not_come_is_named_and_the_job_ends(launcher):
    if launcher == "mpirun":
        needs("mpirun")
    begin = time.monotonic()
    done = run_ranks(2, leaves, launcher=launcher, check=False, environ={"HVDKIT_DEADLINE": "8"})
    assert done.returncode != 0
    assert time.monotonic() - begin < 120, "it did not wait for the sleeper"
    assert "missing ranks" in done.output.lower() or "1: [hvdkit" in done.output, done.output[-3000:]
    assert "A collective was interrupted" in done.output


def _python(code: str, **environ: str) -> subprocess.CompletedProcess:
    env = {**os.environ, **environ}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


NO_HOROVOD = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "horovod":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
import hvdkit as hvd
hvd.init()
print("world", hvd.size())
"""


def test_launched_without_horovod_is_an_error():
    done = _python(NO_HOROVOD, HOROVOD_RANK="1", HOROVOD_SIZE="2", HOROVOD_LOCAL_RANK="1", HOROVOD_LOCAL_SIZE="2")
    assert done.returncode == 1 and "world" not in done.stdout
    last = done.stderr.strip().splitlines()
    assert "[rank 1] Several ranks were launched, but Horovod is not installed" in last[-2]
    assert last[-1].strip() == "What to do: hvdkit install-horovod"


def test_not_launched_needs_no_horovod():
    done = _python(NO_HOROVOD)
    assert done.returncode == 0 and done.stdout.strip() == "world 1"


@pytest.mark.parametrize(
    ("launcher", "variables", "fix"),
    [
        # srun --mpi=none, and the mpirun of an MPI that Horovod was not built with: every rank finds itself alone.
        ("srun", {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}, "--mpi=pmix"),
        ("mpirun", {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, "install-horovod --with mpi"),
    ],
)
def test_worlds_of_one_are_refused(launcher, variables, fix):
    done = _python("import hvdkit as hvd; hvd.init(); print('world', hvd.size())", **variables)
    assert done.returncode == 1 and "world 1" not in done.stdout, done.stdout + done.stderr[-2000:]
    assert f"[rank 1] {launcher} started 2 ranks, but Horovod came up with a world of 1" in done.stderr
    assert fix in done.stderr


def test_a_horovod_built_for_another_tensorflow_is_refused_before_it_is_loaded(tmp_path):
    package = tmp_path / "horovod"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('loaded')\n")
    (package / "metadata.json").write_text('{"tensorflow": "2.4.1"}')
    launched = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "PYTHONPATH": str(tmp_path)}
    done = _python("import hvdkit as hvd; hvd.init()", **launched)
    assert done.returncode == 1 and "loaded" not in done.stderr
    error, fix = done.stderr.strip().splitlines()[-2:]
    assert "[rank 1] Horovod" in error and "was built for TensorFlow 2.4.1, but 2." in error
    assert fix.strip() == "What to do: hvdkit install-horovod"
