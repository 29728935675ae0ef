"""Long commands: logged, ended at the deadline with all their children, and never through a shell."""

import os
import sys
import time

import psutil
import pytest

from hvdkit.horovod_build import build_plan, mpi, process, toolchain, verify
from hvdkit.utils import programs


def run(tmp_path, code, seconds=30.0, **more):
    log = tmp_path / "log"
    argv = [sys.executable, "-c", code]
    return process.run_logged(argv, environ=dict(os.environ), cwd=tmp_path, log=log, seconds=seconds, **more), log


def test_output_goes_to_the_log_and_to_the_listener(tmp_path):
    heard = []
    code, log = run(
        tmp_path, "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)", on_line=heard.append
    )
    assert code == 3
    assert set(heard) == {"one", "two"}
    assert "one\n" in log.read_text()


def test_a_hanging_command_ends_at_the_deadline_with_its_children(tmp_path):
    code = "import subprocess, sys\n"
    code += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(30)', 'hvdkit-orphan'])"
    began = time.monotonic()
    result, log = run(tmp_path, code, seconds=1.5)
    assert result == 124
    assert time.monotonic() - began < 20
    assert "killed after" in log.read_text()
    time.sleep(0.2)
    assert not running("hvdkit-orphan")


def test_an_interrupted_command_takes_its_children_along(tmp_path):
    def interrupt(line):
        raise KeyboardInterrupt

    code = "import subprocess, sys; print('begun', flush=True)\n"
    code += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(30)', 'hvdkit-interrupted'])"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, code, on_line=interrupt)
    time.sleep(0.5)
    assert not running("hvdkit-interrupted")


def running(mark):
    """The processes whose last word is ``mark``."""
    return [one for one in psutil.process_iter(["cmdline"]) if mark in (one.info["cmdline"] or [])[-1:]]


def test_words_are_not_a_shell_line():
    assert programs.ask(["echo", "$HOME; ls"]) == "$HOME; ls\n"


def test_the_mpi_of_this_environment_says_who_it_is():
    found = mpi.find_mpi()
    if found is None:
        return
    assert found.flavour in ("openmpi", "mpich", "intelmpi", "mvapich")
    assert found.version[0].isdigit()


def test_a_library_in_the_environment_is_found_relative_to_horovods():
    from pathlib import Path

    assert build_plan.rpath(Path(sys.prefix, "lib")).startswith("$ORIGIN/..")
    assert build_plan.rpath(Path("/opt/openmpi/lib")) == "/opt/openmpi/lib"


def test_jobs_are_bounded_by_memory(monkeypatch):
    monkeypatch.setattr(toolchain, "_free_memory", lambda: 3 * 2**30)
    assert toolchain.default_jobs() == 1
    monkeypatch.setattr(toolchain, "_free_memory", lambda: 2**50)
    assert toolchain.default_jobs() == len(os.sched_getaffinity(0))


def test_an_error_is_told_by_its_last_line():
    assert verify.last_line("Traceback\n  File\na.b.NotFoundError: undefined symbol\n\n") == (
        "a.b.NotFoundError: undefined symbol"
    )


def test_the_ranks_variables_are_kept_from_a_process_of_its_own(monkeypatch):
    for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_SIZE", "SLURM_PROCID", "PMI_RANK"):
        monkeypatch.setenv(name, "1")
    assert not [
        name
        for name in verify.environment_without_launcher()
        if name.startswith(("HOROVOD_", "OMPI_", "SLURM_", "PMI_"))
    ]
