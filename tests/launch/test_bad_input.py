"""What `hvdkit run` says to bad input: one clear sentence and the way out, never a traceback, never a start."""

from __future__ import annotations

import pytest

from hvdkit.errors import LaunchError, UsageError
from hvdkit.launch import run
from hvdkit.launch.program import module_program, script_program


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "train.py").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-np", "0", "train.py"], "0 is not in the range"),
        (["-np", "x", "train.py"], "'x' is not a valid integer"),
        (["-np", "2"], "Missing argument 'SCRIPT'"),
        (["-np", "2", "--launchr", "mpirun", "train.py"], "--launcher"),
        (["-np", "2", "trian.py"], "did you mean 'train.py'?"),
        (["-np", "2", "-H", "no-such-host.invalid:2", "train.py"], "Unknown host: no-such-host.invalid."),
    ],
)
def test_by_command(cluster, words, says):
    cluster.script("")
    (cluster.directory / "train.py").touch()
    ended = cluster.run(*words)
    assert ended.code != 0
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("words", "says", "fix"),
    [
        ([], "no script", "train.py"),
        ([""], "no script", "train.py"),
        (["trian.py"], "does not exist", "did you mean 'train.py'?"),
        (["sub/zzz.py"], "does not exist", "check the path"),
        (["empty"], "is a directory", "none"),
        (["python", "-u", "train.py"], "-u cannot be passed", "PYTHONUNBUFFERED"),
    ],
)
def test_scripts(here, words, says, fix):
    with pytest.raises(UsageError, match=says) as caught:
        script_program(words)
    assert fix in caught.value.fix


def test_scripts_that_are_fine(here):
    assert script_program(["train.py", "-np", "3"]) == ("train.py", "-np", "3")
    assert script_program(["python3", "train.py", "x"]) == ("train.py", "x")
    assert script_program(["python", "-m", "app", "x"]) == ("-m", "app", "x")
    assert script_program(["app", "x"]) == ("app", "x")


@pytest.mark.parametrize("name", ["no_such_package.x", "a-b", "", "train.py --x"])
def test_modules(here, name):
    with pytest.raises(UsageError):
        module_program(name, [])


def test_hosts_twice(here):
    with pytest.raises(UsageError, match="twice"):
        run(["train.py"], hosts="localhost", hostfile="hosts")


def test_hostfile_that_is_not_there(here):
    with pytest.raises(UsageError, match="hosts cannot be read: No such file"):
        run(["train.py"], hostfile="hosts")


def test_a_launch_inside_a_launch_is_refused(here, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="already rank 1 of 2, started by mpirun"):
        run(["train.py"], 2)


def test_dry_run_starts_nothing(cluster, launcher):
    script = cluster.script("open('ran', 'w')")
    ended = cluster.run("-np", 2, "--algorithm", "ring", "--dry-run", script, "a b", launcher=launcher)
    assert ended.code == 0
    assert f"launcher:  {launcher}: it was asked for" in ended.out
    assert f"{script} 'a b'" in ended.out
    assert "add:       HVDKIT_ALGORITHM=ring" in ended.out
    assert not (cluster.directory / "ran").exists()
    assert cluster.tidy()
