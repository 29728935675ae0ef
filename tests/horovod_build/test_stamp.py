"""What the installed Horovod was built for: this environment's, and made-up site-packages folders."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from hvdkit.horovod_build import framework, stamp
from tests.horovod_build.environments import fake_distribution, fake_horovod


def _installed_horovod():
    try:
        return version("horovod")
    except PackageNotFoundError:
        return None


@pytest.mark.skipif(_installed_horovod() is None, reason="no Horovod here")
def test_this_environment():
    found = stamp.installed_horovod()
    assert found.horovod == _installed_horovod()
    assert framework.minor(found.tensorflow) == framework.installed_tensorflow().minor
    assert stamp.library(found.folder).is_file()
    assert stamp.compatibility_problem() is None


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from hvdkit.horovod_build import stamp; stamp.installed_horovod(); stamp.compatibility_problem();"
        "print(sorted({'tensorflow', 'horovod', 'keras', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_installed(tmp_path):
    assert stamp.installed_horovod([str(tmp_path)]) is None
    assert stamp.compatibility_problem([str(tmp_path)]) is None


def test_a_folder_without_init_is_no_horovod(tmp_path):
    (tmp_path / "horovod").mkdir()
    assert stamp.installed_horovod([str(tmp_path)]) is None


def test_ours(tmp_path):
    fake_horovod(tmp_path, "2.19.0", key="0123456789abcdef")
    found = stamp.installed_horovod([str(tmp_path)])
    assert found.by_hvdkit
    assert (found.horovod, found.tensorflow, found.key) == ("0.28.1", "2.19.0", "0123456789abcdef")
    assert found.parts["mpi"] == "openmpi 5.0.11"


def test_another_builders(tmp_path):
    fake_horovod(tmp_path, "2.19.0")
    found = stamp.installed_horovod([str(tmp_path)])
    assert not found.by_hvdkit
    assert found.tensorflow == "2.19.0"


@pytest.mark.parametrize(("built_for", "there", "says"), [
    ("2.19.0", "2.21.0", "built for TensorFlow 2.19.0, but 2.21.0 is installed"),
    ("2.2.0", "2.21.0", "built for TensorFlow 2.2.0, but 2.21.0 is installed"),
    (None, "2.21.0", "built without TensorFlow"),
    ("2.21.0", "2.21.1", None),
    ("2.21.0", "2.21.0", None),
])  # fmt: skip
@pytest.mark.parametrize("key", [None, "0123456789abcdef"])
def test_does_it_fit(tmp_path, built_for, there, says, key):
    fake_horovod(tmp_path, built_for, key=key)
    fake_distribution(tmp_path, "tensorflow-cpu", there, "tensorflow")
    problem = stamp.compatibility_problem([str(tmp_path)])
    assert problem is None if says is None else says in problem


def test_built_with_nccl_and_a_cpu_tensorflow(tmp_path):
    folder = fake_horovod(tmp_path, "2.21.0", key="0123456789abcdef")
    stamped = json.loads((folder / stamp.NAME).read_text())
    fake_distribution(tmp_path, "tensorflow-cpu", "2.21.0", "tensorflow")
    assert stamp.compatibility_problem([str(tmp_path)]) is None
    stamped["parts"]["nccl"] = "2.27.7"
    (folder / stamp.NAME).write_text(json.dumps(stamped))
    assert "tensorflow-cpu 2.21.0 is a CPU build" in stamp.compatibility_problem([str(tmp_path)])


def test_built_for_another_python(tmp_path):
    folder = fake_horovod(tmp_path, "2.21.0", library=False)
    (folder / "tensorflow/mpi_lib.cpython-37m-x86_64-linux-gnu.so").write_bytes(b"")
    fake_distribution(tmp_path, "tensorflow", "2.21.0")
    assert "cpython-37m" in stamp.compatibility_problem([str(tmp_path)])


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"key": 1}', json.dumps({"key": "x", "parts": 3})])
def test_a_broken_stamp_is_no_stamp(tmp_path, broken):
    folder = fake_horovod(tmp_path, "2.21.0")
    (folder / stamp.NAME).write_text(broken)
    found = stamp.installed_horovod([str(tmp_path)])
    assert (found.key, found.tensorflow) == (None, "2.21.0")


def test_a_cuda_build_of_tensorflow_is_seen(tmp_path):
    folder = fake_distribution(tmp_path, "tensorflow", "2.21.0")
    (folder / "python/platform").mkdir(parents=True)
    record = "build_info = collections.OrderedDict([('cuda_version', '12.5.1'), ('is_cuda_build', {})])"
    (folder / "python/platform/build_info.py").write_text(record.format("True"))
    assert framework.installed_tensorflow([str(tmp_path)]).cuda == "12.5.1"
    (folder / "python/platform/build_info.py").write_text(record.format("False"))
    assert framework.installed_tensorflow([str(tmp_path)]).cuda is None


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow-cpu", "tensorflow_cpu", "tensorflow-rocm"])
def test_tensorflow_under_its_names(tmp_path, name):
    fake_distribution(tmp_path, name, "2.20.0", "tensorflow")
    found = framework.installed_tensorflow([str(tmp_path)])
    assert (found.distribution, found.minor) == (name.replace("_", "-"), "2.20")
