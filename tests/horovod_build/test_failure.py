"""The first error of real compilers' real output, and the reasons."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from hvdkit.horovod_build import failure, tools


def compiled(folder, text, *options):
    """What c++ says about a file."""
    source = folder / "bad.cc"
    source.write_text(text)
    done = subprocess.run(
        ["c++", *(options or ("-c", "-o", str(folder / "bad.o"))), str(source)],
        capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert done.returncode != 0
    return ["[  3%] Building CXX object a.o", "warning: nothing", *done.stderr.splitlines(), "make: *** Error 2"]


def test_the_first_of_several_errors_with_its_line(tmp_path):
    found = failure.explain(compiled(tmp_path, "int main() {\n  return oops;\n}\nint f() { return worse; }\n"))
    assert len(found.lines) == 3
    assert "bad.cc:2:10: error:" in found.lines[0]
    assert "oops" in found.lines[0]
    assert "return oops;" in found.lines[1]
    assert "worse" not in "".join(found.lines)
    assert found.reason == "the compiler found an error"


def test_a_missing_header_is_named(tmp_path):
    found = failure.explain(compiled(tmp_path, "#include <nowhere/deep.h>\n"))
    assert found.reason == "the header nowhere/deep.h is missing"
    assert "bad.cc:1:10: fatal error:" in found.lines[0]


def test_a_missing_mpi_header_says_how_to_go_without(tmp_path):
    found = failure.explain(compiled(tmp_path, '#include "mpi.h"\n'))
    assert "--without mpi" in found.fix


def test_a_missing_library_is_named(tmp_path):
    options = ("-o", str(tmp_path / "bad"), "-lnowhere")
    source = tmp_path / "bad.cc"
    found = failure.explain(compiled(tmp_path, "int main() {}\n", str(source), *options))
    assert "library nowhere" in found.reason


def test_an_undefined_reference(tmp_path):
    found = failure.explain(compiled(tmp_path, "int f(); int main() { return f(); }\n", "-o", str(tmp_path / "bad")))
    assert "undefined reference" in found.lines[0]
    assert "symbol" in found.reason


def test_a_full_disk(tmp_path):
    found = failure.explain(compiled(tmp_path, "int f() { return 1; }\n", "-c", "-o", "/dev/full"))
    assert found.reason == "the disk is full"


def test_a_compiler_killed_for_memory(tmp_path):
    """g++ reports a killed cc1plus as it does after the kernel's out-of-memory killer."""
    pipe = tmp_path / "waits.cc"
    os.mkfifo(pipe)
    child = psutil.Popen(["g++", "-c", str(pipe), "-o", str(tmp_path / "a.o")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not child.children() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.children()[0].kill()
    found = failure.explain(child.stderr.read().splitlines())
    child.wait()
    assert "too little memory" in found.reason
    assert found.fix.endswith("--jobs 1")


@pytest.mark.parametrize("retries", ["0", "1"])
def test_an_unreachable_package_index(tmp_path, retries):
    log = tmp_path / "pip.log"
    argv = [sys.executable, "-m", "pip", "download", "--isolated", "--retries", retries, "--no-cache-dir", "--no-deps"]
    argv += ["--index-url", "http://127.0.0.1:9/simple", "horovod==0.28.1"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0
    log.write_text(done.stdout + done.stderr)
    error = failure.error("Downloading Horovod's sources", log)
    assert "not reach the package index" in error.what
    assert str(log) in error.what
    assert "proxy" in error.fix


def test_a_cmake_error(tmp_path):
    cmake = pytest.importorskip("cmake")
    (tmp_path / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.13)\nfind_package(Nowhere REQUIRED)\n")
    done = subprocess.run(
        [os.path.join(cmake.CMAKE_BIN_DIR, "cmake"), "-S", str(tmp_path), "-B", str(tmp_path / "b")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = failure.explain((done.stdout + done.stderr).splitlines())
    assert found.lines[0].startswith("CMake Error at CMakeLists.txt:2")
    assert "Nowhere" in found.lines[1]


def test_a_log_of_3000_lines_becomes_a_few(tmp_path):
    log = tmp_path / "long.log"
    log.write_text("noise\n" * 3000 + "a.cc:1:2: error: first\n" + "b.cc:1:2: error: second\n" * 3000)
    assert len(str(failure.error("Building Horovod", log)).splitlines()) <= 6


def test_a_log_without_an_error():
    found = failure.explain(["all is well"])
    assert found.lines == ()
    assert "no error" in found.reason


def test_the_build_environment_drops_other_builds_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("HOROVOD_GPU_ALLREDUCE", "MPI")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    environ = tools.environment(tmp_path)
    assert "HOROVOD_GPU_ALLREDUCE" not in environ
    assert environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/mine"
    assert environ["PATH"].startswith(str(tmp_path / "bin"))
