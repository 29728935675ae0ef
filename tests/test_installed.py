"""A script in the folder that holds the clone finds the installed hvdkit, and not the clone's folder of that name."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess

import pytest

from tests.horovod_build.environments import REPOSITORY, Environment

_SCRIPT = """\
import hvdkit as hvd
hvd.init()
print(hvd.size(), hvd.__file__)
"""


def _needs(*packages: str) -> None:
    """Skip where an installation without a network lacks something."""
    for package in packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed, and hvdkit cannot be installed without it and without a network")


# What the README says to users, and what scripts/environment.sh does for the .venv of the clone.
@pytest.mark.parametrize("options", [(), ("--editable",)], ids=["plain", "editable"])
def test_a_script_beside_the_clone(tmp_path, options):
    _needs("pip", "setuptools", "wheel")
    environment = Environment(tmp_path / "environment", ())
    clone = tmp_path / "hvdkit"
    clone.mkdir()
    shutil.copytree(REPOSITORY / "hvdkit", clone / "hvdkit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, clone)
    (tmp_path / "train.py").write_text(_SCRIPT)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def python(*words):
        command = [str(environment.python), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index")
    python("-m", "pip", "install", *quiet, *options, clone)
    home = clone if options else environment.site
    assert python("train.py").split() == ["1", str(home / "hvdkit" / "__init__.py")]
    assert "--set" in python("-m", "hvdkit", "train", "--help")
    for file in (clone / "hvdkit").rglob("*"):
        assert (home / file.relative_to(clone)).exists(), f"{file} is not installed"
