"""What every test gets: a world of one that is left again, and an environment that no launcher has touched."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


# Tests that mostly wait run beside the others (scripts/test.sh); those that train share the cores, one after the other.
_WAITING = ("launch", "chaos", "horovod_build", "doctor")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name not in _WAITING:
            item.add_marker(pytest.mark.xdist_group("trains"))


@pytest.fixture(autouse=True)
def unchanged_environment():
    """Fail a test that leaves the environment changed."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    ours = ("HVDKIT_", "HOROVOD_", "OMPI_", "SLURM_", "PMI_", "PYTHONPATH", "PATH")  # libraries set what they like
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k) and k.startswith(ours)}
    assert not changed, f"left in the environment: {sorted(changed)}"
