"""Ranks where there is no Horovod, or one with Gloo alone: mpirun and mpi4py are enough, in real environments."""

from __future__ import annotations

import json
import sysconfig

import pytest

from tests.horovod_build.environments import Environment
from tests.machine import needs

pytestmark = pytest.mark.dist

# Nothing of the environment that runs the tests, whose horovodrun would be found.
BARE = {"PATH": "/usr/bin:/bin", "HVDKIT_ENGINE": None, "TF_CPP_MIN_LOG_LEVEL": "2"}
SCRIPT = """
import sys
import keras
import numpy as np
import hvdkit as hvd
hvd.init()
hvd.set_seed(1)
optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1))
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
model.compile(optimizer, "mse")
data = hvd.data.shard(np.ones((8, 3), "float32"), np.ones((8, 1), "float32"), batch_size=2)
model.fit(data, epochs=1, callbacks=hvd.callbacks.defaults())
sys.stdout.write(f"trained on {hvd.size()}: {hvd.assert_equal_weights(model)[:8]}\\n")
"""
YAML = """
data: {name: 'mine:data'}
model: {name: mlp}
epochs: 1
launch: {np: 2}
"""
DATA = """
import numpy as np
def data():
    x, y = np.ones((16, 3), "float32"), np.arange(16) % 2
    return (x, y), (x, y)
"""


EACH = pytest.mark.parametrize("environment", ["none", "Gloo alone"], indirect=True)


@pytest.fixture(scope="module")
def environment(request, tmp_path_factory):
    """An environment without Horovod, and one whose Horovod was built without MPI."""
    needs("mpirun", "mpi")
    made = Environment(tmp_path_factory.mktemp("env"), ("horovod",))
    if request.param != "none":
        from hvdkit.horovod_build import framework

        folder = made.add_horovod(framework.installed_tensorflow().version, key="0123456789abcdef")
        library = folder / "tensorflow" / f"mpi_lib{sysconfig.get_config_var('EXT_SUFFIX')}"
        library.write_bytes(b"GlooController")
    (made.folder / "train.py").write_text(SCRIPT)
    (made.folder / "mine.py").write_text(DATA)
    (made.folder / "c.yaml").write_text(YAML)
    return made


@EACH
def test_a_script_trains(environment):
    done = environment.hvdkit("run", "-np", 2, "train.py", **BARE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "engine mpi: mpirun started the ranks" in done.stderr
    told = [line.removeprefix("[1] ") for line in done.stdout.splitlines() if "trained" in line]
    assert len(told) == 2 and len(set(told)) == 1 and told[0].startswith("trained on 2: ")


@pytest.mark.parametrize("environment", ["none"], indirect=True)
def test_a_yaml_trains(environment):
    done = environment.hvdkit("train", "c.yaml", **BARE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 2 ranks" in done.stdout.splitlines()[-1]


@EACH
def test_what_is_there_is_named(environment):
    """In the plan, by the doctor, and where more is asked for than there is."""
    gloo = (environment.site / "horovod").exists()
    plan = environment.hvdkit("run", "-np", 2, "--dry-run", "train.py", **BARE).stdout
    assert plan.startswith("launcher:  mpirun: mpi4py is installed, and its engine needs no Horovod\nengine:    mpi\n")
    asked = environment.hvdkit("run", "-np", 2, "--engine", "horovod", "--launcher", "mpirun", "train.py", **BARE)
    lacks = "This Horovod was built without MPI." if gloo else "Horovod is not installed in this Python."
    assert (asked.returncode, asked.stderr.splitlines()[0]) == (1, f"hvdkit: {lacks}")
    done = environment.hvdkit("doctor", "--json", **BARE)
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["engines"]["status"] == "ok" and "mpi (by mpirun)" in found["engines"]["detail"]
    if gloo:  # an empty library: what it says of MPI it says of one that loads
        assert found["horovod"]["status"] == "fail"
    else:
        assert done.returncode == 0, done.stdout
        assert found["horovod"]["status"] == "info" and "the engine 'mpi' trains" in found["horovod"]["detail"]
        assert found["horovod"]["fix"] == "hvdkit install-horovod"
    assert found["mpi4py"]["status"] == "ok" and "openmpi" in found["mpi4py"]["detail"]
