"""What every test gets: a world of one that is left again, and an environment that no launcher has touched."""

from __future__ import annotations

import gc
import os

import pytest

from hvdkit.utils import env
from tests.forkserver.servers import ForkServers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


# The files that take longest: where several run at a time, these begin first.
LONGEST = (
    "equivalence/test_equivalence_ranks.py",
    "trainer/test_scripts_ranks.py",
    "people/test_people_scripts_ranks.py",
    "data/test_data_ranks.py",
    "launch/test_restarts.py",
    "compat/test_compat_ranks.py",
    "chaos/test_kills.py",
    "chaos/test_training.py",
    "comm/test_engines_ranks.py",
    "checkpoint/test_resume_ranks.py",
    "optim/test_local_sgd_ranks.py",
    "optim/test_horovod_surface_ranks.py",
    "callbacks/test_noise_scale_ranks.py",
    "callbacks/test_consistency_check_ranks.py",
    "doctor/test_doctor.py",
)


def pytest_collection_modifyitems(items):
    """Longest files first; within a file the order stays."""
    place = {name: number for number, name in enumerate(LONGEST)}
    name = lambda item: "/".join(item.path.parts[-2:])
    items.sort(key=lambda item: place.get(name(item), len(place)))


def pytest_collection_finish():
    """TensorFlow and Keras are there to stay: no garbage collection need look at their million objects.

    Each ``clear_session`` asks for one, and the tests call it hundreds of times.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def unchanged_environment():
    """Fail a test that leaves the environment changed."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    ours = ("HVDKIT_", "HOROVOD_", "OMPI_", "SLURM_", "PMI_", "PYTHONPATH", "PATH")  # libraries set what they like
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k) and k.startswith(ours)}
    assert not changed, f"left in the environment: {sorted(changed)}"


@pytest.fixture(scope="session")
def fork_servers():
    with ForkServers() as servers:
        yield servers


@pytest.fixture(scope="module")
def forked_ranks(fork_servers):
    """Ranks that a module's tests start are forks of a process that has imported TensorFlow."""
    with env.during(fork_servers.variables()):
        yield


@pytest.fixture
def forked_programs(fork_servers):
    """As ``forked_ranks``, for a test that starts programs which are no ranks."""
    with env.during(fork_servers.variables(servers=1)):
        yield
