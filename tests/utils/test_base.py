"""The base: errors, registry, environment, seeds, devices, objects. No ranks, mostly no TensorFlow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hvdkit.comm.engine import Engine, ReduceOp
from hvdkit.comm.single import SingleEngine
from hvdkit.engines import peer_lost
from hvdkit.errors import ConfigError, HvdkitError, LaunchError, UsageError
from hvdkit.launch.identity import launch_info
from hvdkit.random import seeds
from hvdkit.strategies import devices
from hvdkit.utils import env, programs
from hvdkit.utils.mpi import parse_version
from hvdkit.utils.registry import Registry

HOROVOD = {"RANK": "3", "SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "CROSS_RANK": "1", "CROSS_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "want"),
    [
        ({}, ("none", 0, 1, 0, 1)),
        ({f"HOROVOD_{k}": v for k, v in HOROVOD.items()}, ("horovodrun", 3, 4, 1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
          "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, ("mpirun", 1, 2, 1, 2)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, ("mpirun", 0, 2, 0, None)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, ("srun", 5, 8, 1, None)),
        # a batch script that srun did not start has these: it is not one of 8 ranks
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, ("none", 0, 1, 0, 1)),
    ],
)  # fmt: skip
def test_who_launched_me(environ, want):
    info = launch_info(environ)
    assert (info.launcher, info.rank, info.size, info.local_rank, info.local_size) == want


def test_horovods_own_launcher_is_believed_first():
    mixed = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
    assert launch_info(mixed).size == 2


def test_a_rank_that_is_no_number_is_named():
    with pytest.raises(ConfigError, match=r"HOROVOD_RANK.*'x'"):
        launch_info({"HOROVOD_RANK": "x", "HOROVOD_SIZE": "2"})


@pytest.mark.parametrize(("text", "want"), [("1", True), ("on", True), ("No", False), ("", True), ("maybe", None)])
def test_flags(monkeypatch, text, want):
    monkeypatch.setenv("HVDKIT_CONSISTENCY_CHECK", text)
    if want is None:
        with pytest.raises(ConfigError, match=r"HVDKIT_CONSISTENCY_CHECK.*'maybe'"):
            env.flag("CONSISTENCY_CHECK", True)
    else:
        assert env.flag("CONSISTENCY_CHECK", True) is want


def test_errors_say_what_where_and_what_to_do():
    error = UsageError("It broke.", fix="mend it", rank=2)
    assert str(error) == "[rank 2] It broke.\n  What to do: mend it"
    assert isinstance(error, ValueError) and isinstance(error, HvdkitError)


def test_registry_suggests_the_nearest():
    registry = Registry("colour", {"green": "json:dumps", "blue": "json:loads"})
    with pytest.raises(UsageError, match=r"Unknown colour 'gren'. Known: green, blue.(.|\n)*did you mean 'green'"):
        registry.resolve("gren")
    assert registry.resolve("green") is __import__("json").dumps


def test_seeds():
    ranks = [seeds.derive_seeds(5, r) for r in range(4)]
    assert {s.model for s in ranks} == {5} and len({s.data for s in ranks}) == 4
    assert (
        seeds.derive_seeds(5, 1) == seeds.derive_seeds(5, 1)
        and seeds.derive_seeds(6, 1).data != seeds.derive_seeds(5, 1).data
    )
    for bad in (-1, 2**32, 1.0, True, "1"):
        with pytest.raises(ValueError, match="seed"):
            seeds.set_seed(bad)


def test_devices_are_chosen_by_local_rank():
    assert [devices.choose_device(4, r, 4) for r in range(4)] == [0, 1, 2, 3]
    assert (
        devices.choose_device(8, 2, 4) == 2
        and devices.choose_device(0, 3, 4) is None
        and devices.choose_device(1, 3, 4) == 0
    )
    with pytest.raises(LaunchError, match="4 ranks on this host see 2 GPUs"):
        devices.choose_device(2, 0, 4)


@pytest.mark.usefixtures("forked_programs")
def test_pinning_is_real_on_cpu_devices():
    """TensorFlow's own device list, with CPUs in the place of GPUs; in a process of its own."""
    code = (
        "import tensorflow as tf\nfrom hvdkit.strategies import devices\n"
        "assert devices.pin(0, 1) is None  # no GPU here\n"
        "assert devices.pin(0, 1, kind='CPU') == '/physical_device:CPU:0'\n"
        "tf.constant(1)\n"
        "try: devices.pin(0, 1, kind='CPU')\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("LaunchError" in done.stdout and "call hvd.init() before" in done.stdout) or done.stdout == ""


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (
            "[node X]\nHorovod has been shut down. This was caused by an exception on one of the ranks",
            "Horovod has been",
        ),
        ("gloo/transport/tcp/pair.cc: Connection closed by peer [127.0.0.1]", "Connection closed by peer"),
        ("[/b/gloo/pair.cc:9] Read error [127.0.0.1]:4711: Connection reset by peer", "Read error"),
        ("[/b/gloo/buffer.cc:9] Timed out waiting 30000ms for send operation to complete", "Timed out waiting"),
        ("TimeoutError: Timed out waiting for a lock", None),
        ("ConnectionResetError: [Errno 104] Connection reset by peer", None),
        ('bad input : Tensor had NaN values\n File "/home/me/horovod_jobs/train.py", line 3', None),
        ("Requested to allreduce a tensor with the same name, in horovod/tensorflow/mpi_ops.py", None),
    ],
)
def test_what_a_broken_collective_says(text, is_one):
    found = peer_lost().search(text)
    assert (found is None) if is_one is None else found.group(0).startswith(is_one)


@pytest.mark.parametrize(
    ("kind", "first"), [("environment", "own"), ("conda", "own"), ("system", "path"), ("system without", "own")]
)
def test_whose_program_goes_first(monkeypatch, tmp_path, kind, first):
    """An environment's own, which need not be activated; a loaded module goes before what the system has."""
    for folder in ("own", "path"):
        program = tmp_path / folder / "mpicxx"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    if kind == "conda":
        (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "usr" if kind == "environment" else tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "own" / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "own"))
    monkeypatch.setenv("PATH", str(tmp_path / ("empty" if kind == "system without" else "path")))
    assert programs.find("mpicxx") == str(tmp_path / first / "mpicxx")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        # mpirun --version
        ("mpirun (Open MPI) 5.0.11\n", ("openmpi", "5.0.11")),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9 Build 20230307 (id: d82b3071db)", ("intelmpi", "2021.9")),
        ("HYDRA build details:\n    Version:                                 4.2.1", ("mpich", "4.2.1")),
        # MPI_Get_library_version
        ("Open MPI v5.0.11, package: Open MPI root@host Distribution, ident: 5.0.11", ("openmpi", "5.0.11")),
        ("Intel(R) MPI Library 2021.9 for Linux* OS\n", ("intelmpi", "2021.9")),
        ("MPICH Version:      4.2.1\nMPICH Release date: Wed Apr 17 15:30:02 CDT 2024", ("mpich", "4.2.1")),
        (
            "MVAPICH2 Version      :\t2.3.7\nMVAPICH2 Release date : Wed March 02 2022",
            ("mvapich", "2.3.7"),
        ),
        ("MVAPICH Version:      3.0\n", ("mvapich", "3.0")),
        ("command not found", ("unknown", "")),
    ],
)
def test_which_mpi_it_is(text, want):
    assert parse_version(text) == want


def test_the_single_engine_is_an_engine():
    assert isinstance(SingleEngine(), Engine)
    assert ReduceOp.get("Sum") is ReduceOp.SUM
    with pytest.raises(ValueError, match="hvd\\.Average"):
        ReduceOp.get("mean")
