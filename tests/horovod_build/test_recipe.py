"""The cache key has everything in it that decides the binary, and the plan's pure parts."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdkit.horovod_build.recipe import BuildPlan, Recipe

BASE = Recipe(
    tensorflow="2.21.0",
    tensorflow_cuda=None,
    python="cp311",
    machine="x86_64",
    glibc="2.36",
    compiler="gcc 12",
    cpu_flags=("-mavx",),
    mpi="openmpi 5.0.11",
    rpath=("$ORIGIN/../../../..",),
)
OTHER = {
    "tensorflow": "2.20.0",
    "tensorflow_cuda": "12.5.1",
    "python": "cp312",
    "machine": "aarch64",
    "glibc": "2.28",
    "compiler": "gcc 13",
    "cpu_flags": (),
    "mpi": None,
    "nccl": "2.27.7",
    "cuda": "12.9",
    "gpu_architectures": (90,),
    "rpath": ("/opt/openmpi/lib",),
    "horovod": "0.28.2",
    "revision": "2",
}


def make_plan(recipe=BASE, **changes):
    paths = {"python": Path("/venv/bin/python"), "cc": "cc", "cxx": "c++", "generator": "Unix Makefiles", "jobs": 3}
    return BuildPlan(recipe=recipe, **{**paths, **changes})


def test_every_field_is_tried():
    assert set(OTHER) == {field.name for field in dataclasses.fields(Recipe)}


@pytest.mark.parametrize("name", OTHER)
def test_each_part_changes_the_key(name):
    assert dataclasses.replace(BASE, **{name: OTHER[name]}).key() != BASE.key()


@given(st.text(), st.text(), st.lists(st.integers(0, 130)), st.lists(st.integers(0, 130)))
def test_equal_recipes_and_no_others_have_equal_keys(one, two, these, those):
    first = dataclasses.replace(BASE, glibc=one, compiler=two, gpu_architectures=tuple(these))
    second = dataclasses.replace(BASE, glibc=two, compiler=one, gpu_architectures=tuple(those))
    assert (first.key() == second.key()) == (first == second)


def test_the_stamp_is_json_and_holds_the_key():
    stamp = json.loads(json.dumps(BASE.stamp()))
    assert stamp["key"] == BASE.key()
    assert stamp["parts"]["tensorflow"] == "2.21.0"


def test_where_the_jobs_and_the_paths_are_is_no_part_of_the_key():
    assert make_plan().recipe.key() == make_plan(jobs=64, cxx="g++-12").recipe.key()


def test_variables_without_a_gpu():
    variables = make_plan().variables()
    assert variables["HOROVOD_WITH_MPI"] == variables["HOROVOD_WITH_GLOO"] == "1"
    assert variables["MAKEFLAGS"] == "-j3"
    assert not {"HOROVOD_GPU_OPERATIONS", "HOROVOD_WITHOUT_MPI"} & variables.keys()
    assert 'set(CMAKE_INSTALL_RPATH "$ORIGIN/../../../..")' in make_plan().cmake()


def test_variables_with_nccl_and_without_mpi():
    recipe = dataclasses.replace(BASE, mpi=None, nccl="2.27.7", cuda="12.9", gpu_architectures=(80, 90))
    plan = make_plan(recipe, cuda_home=Path("/cuda"), nccl_include=Path("/n"), nccl_library=Path("/l/libnccl.so.2"))
    variables = plan.variables()
    assert variables["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert variables["HOROVOD_WITHOUT_MPI"] == "1"
    assert variables["HOROVOD_BUILD_CUDA_CC_LIST"] == "80,90"
    assert 'set(NCCL_LIBRARY "/l/libnccl.so.2"' in plan.cmake()
    assert plan.path()[0] == Path("/cuda/bin")
    assert "8.0, 9.0" in plan.describe()["CUDA"]
