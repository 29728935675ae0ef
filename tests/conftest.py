"""What every test gets: a world of one that is left again, and an environment that no launcher has touched."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(autouse=True)
def unchanged_environment():
    """Fail a test that leaves the environment changed."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    ours = ("HVDKIT_", "HOROVOD_", "OMPI_", "SLURM_", "PMI_", "PYTHONPATH", "PATH")  # libraries set what they like
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k) and k.startswith(ours)}
    assert not changed, f"left in the environment: {sorted(changed)}"
