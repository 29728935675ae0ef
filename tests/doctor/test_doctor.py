"""``hvdkit doctor`` in real environments: what it finds, how it says it, and its exit code."""

import configparser
import json
import sys

import pytest
from packaging.requirements import Requirement

from hvdkit.doctor import CHECKS, Context, Finding, examine
from hvdkit.doctor.probe import Probe, parse
from hvdkit.engines.horovod import HorovodBuild
from hvdkit.horovod_build import framework, stamp
from hvdkit.launch.launcher import Tool
from hvdkit.utils.registry import import_object
from hvdkit.utils.tested_versions import KERAS, TENSORFLOW
from tests.horovod_build.environments import REPOSITORY, Environment

_TENSORFLOW = pytest.mark.skipif(framework.installed_tensorflow() is None, reason="no TensorFlow here")


def diagnose(environment, **variables):
    """Exit code and findings by name, of ``hvdkit doctor --json``."""
    done = environment.hvdkit("doctor", "--json", **variables)
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)  # stdout is JSON and nothing else
    assert set(report) == {"schema", "hvdkit", "ok", "findings"}
    assert report["schema"] == 1
    for finding in report["findings"]:
        assert set(finding) == {"name", "status", "detail", "fix"}
        assert finding["status"] in ("ok", "info", "warn", "fail")
        assert finding["fix"] or finding["status"] in ("ok", "info"), finding
    failed = [finding for finding in report["findings"] if finding["status"] == "fail"]
    assert report["ok"] == (not failed)
    assert done.returncode == (1 if failed else 0)
    return done.returncode, {finding["name"]: finding for finding in report["findings"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """This environment as it is."""
    return Environment(tmp_path_factory.mktemp("whole"), ())


@_TENSORFLOW
@pytest.mark.skipif(
    stamp.installed_horovod() is None or stamp.compatibility_problem() is not None, reason="no fitting Horovod here"
)
def test_a_good_environment(whole):
    code, found = diagnose(whole)
    assert code == 0, found
    assert found["horovod"]["status"] == "ok"
    assert "gloo" in found["horovod"]["detail"]
    assert found["keras internals"]["status"] == "ok"


@_TENSORFLOW
def test_without_any_engine(tmp_path):
    """Without Horovod, and without mpi4py; what can be done with mpi4py alone is in tests/launch."""
    environment = Environment(tmp_path / "env", ("horovod", "mpi4py"))
    code, found = diagnose(environment)
    assert code == 1
    assert found["horovod"]["fix"] == "hvdkit install-horovod"
    assert found["engines"]["fix"] == "pip install 'hvdkit[mpi]'; or hvdkit install-horovod"
    # the same, for people: the fix stands below the line
    done = environment.hvdkit("doctor")
    assert done.returncode == 1
    assert "XX engines" in done.stdout
    assert "fix: pip install 'hvdkit[mpi]'; or hvdkit install-horovod" in done.stdout
    assert "would fail" in done.stdout.splitlines()[-1]


def looked_at(check, tools, installed, mpi4py=None):
    """What a check finds on a made-up machine."""
    context = Context()
    context.tools, context.installed = tools, installed
    context.mpi4py = mpi4py if isinstance(mpi4py, Probe) else Probe({"mpi4py": mpi4py})
    return [
        (finding.status, finding.detail, finding.fix)
        for finding in import_object(f"hvdkit.doctor.ranks:{check}")(context)
    ]


OPEN_MPI = {"mpirun": Tool("/env/mpirun", "openmpi", "5.0.7")}
GLOO = {"horovod": HorovodBuild(gloo=True, mpi=False)}
MPI4PY = {"mpi": "4.1.2", "horovod": None}


@pytest.mark.parametrize(("tools", "installed", "status", "says"), [
    (OPEN_MPI, MPI4PY, "ok", "mpi (by mpirun)"),
    ({"srun": Tool("/usr/bin/srun")}, MPI4PY, "ok", "mpi (by srun)"),
    ({"horovodrun": Tool("/env/horovodrun")}, {**MPI4PY, **GLOO}, "ok", "horovod (by horovodrun)"),
    (OPEN_MPI, {"mpi": None, **GLOO}, "fail", "mpi4py is not installed in this Python. This Horovod was built without"),
    ({}, {"mpi": None, "horovod": None}, "fail", "only one process can train"),
    ({}, MPI4PY, "fail", "only one process can train"),
])  # fmt: skip
def test_the_engines_that_ranks_can_use(tools, installed, status, says):
    ((found, detail, fix),) = looked_at("engines", tools, installed)
    assert found == status and says in detail
    assert bool(fix) == (status == "fail")


@pytest.mark.parametrize(("mpirun", "installed", "answer", "status", "says"), [
    (OPEN_MPI, MPI4PY, {"library": "Open MPI v5.0.11", "size": 2}, "ok", "4.1.2, on openmpi 5.0.11: two ranks"),
    ({}, MPI4PY, {"library": "Open MPI v5.0.11, package", "size": 1}, "ok", "4.1.2, on openmpi 5.0.11"),
    (OPEN_MPI, MPI4PY, {"library": "MPICH Version:   4.2.1", "size": 1}, "fail", "loads mpich 4.2.1, but mpirun is of"),
    (OPEN_MPI, {**MPI4PY, "horovod": HorovodBuild(True, True)}, {"library": "", "size": 1}, "warn", "was alone"),
    (OPEN_MPI, MPI4PY, {"error": "RuntimeError: cannot load"}, "fail", "4.1.2 does not load: RuntimeError"),
    (OPEN_MPI, MPI4PY, Probe(end="code 1: no"), "fail", "4.1.2; two ranks could not be started to try it: code 1: no"),
    ({}, MPI4PY, Probe(end="code 1: no"), "fail", "4.1.2; a process could not be started to try it: code 1: no"),
    ({}, {"mpi": None, **GLOO}, {}, "info", "not installed"),
])  # fmt: skip
def test_mpi4py_takes_the_mpi_of_mpirun(mpirun, installed, answer, status, says):
    ((found, detail, _),) = looked_at("mpi4py", mpirun, installed, answer)
    assert found == status and says in detail


@_TENSORFLOW
def test_horovod_built_for_another_tensorflow(tmp_path):
    environment = Environment(tmp_path / "env", ("horovod",))
    environment.add_horovod("2.13.0", key="0123456789abcdef")
    code, found = diagnose(environment)
    assert code == 1
    assert (
        f"built for TensorFlow 2.13.0, but {framework.installed_tensorflow().version} is installed"
        in found["horovod"]["detail"]
    )
    assert found["horovod"]["fix"] == "hvdkit install-horovod"


@_TENSORFLOW
def test_horovod_whose_library_is_broken(tmp_path):
    environment = Environment(tmp_path / "env", ("horovod",))
    environment.add_horovod(framework.installed_tensorflow().version, key="0123456789abcdef")
    code, found = diagnose(environment)
    assert code == 1
    assert "does not load" in found["horovod"]["detail"]


def test_without_tensorflow(tmp_path):
    code, found = diagnose(Environment(tmp_path / "env", ("tensorflow", "horovod")))
    assert code == 1
    assert found["tensorflow"]["detail"] == "not installed"
    assert "pip install" in found["tensorflow"]["fix"]


@_TENSORFLOW
@pytest.mark.parametrize(("variables", "name", "says"), [
    ({"KERAS_BACKEND": "jax"}, "keras", "backend 'jax' (KERAS_BACKEND)"),
    ({"TF_USE_LEGACY_KERAS": "1"}, "legacy keras", "TF_USE_LEGACY_KERAS"),
])  # fmt: skip
def test_the_wrong_keras(whole, variables, name, says):
    code, found = diagnose(whole, **variables)
    assert code == 1
    assert says in found[name]["detail"]
    assert found[name]["status"] == "fail"
    if stamp.installed_horovod() and not stamp.compatibility_problem():
        assert found["horovod"]["status"] == "ok"  # it is Keras that is to be mended, not Horovod


@_TENSORFLOW
def test_an_old_keras_and_a_misfit(tmp_path):
    environment = Environment(tmp_path / "env", ("keras",))
    environment.add_distribution("keras", "3.9.0")
    code, found = diagnose(environment)
    assert code == 1
    assert found["keras"]["status"] == "fail"
    assert found["keras"]["detail"].startswith("3.9.0; hvdkit needs")
    environment = Environment(tmp_path / "misfit", ("protobuf",))
    environment.add_distribution("protobuf", "3.19.0")
    _, found = diagnose(environment)
    assert found["requirements"]["status"] == "warn"
    assert found["requirements"]["detail"].endswith("3.19.0 is installed")


@_TENSORFLOW
def test_a_keras_newer_than_tested(tmp_path):
    environment = Environment(tmp_path / "env", ("keras-",))  # Keras itself is there, and says in its metadata:
    environment.add_distribution("keras", "3.99.0", "no_package")
    _, found = diagnose(environment)
    assert found["keras"]["status"] == "warn"
    assert found["keras"]["detail"] == f"3.99.0; hvdkit was tried up to {KERAS.newest}"
    assert "pip install 'keras>=" in found["keras"]["fix"]


@pytest.mark.parametrize(
    ("answer", "status", "word"),
    [
        ({"missing": []}, "ok", "is there"),
        (
            {"missing": ["Optimizer._clip(grads): it is not there, and hvd.optim.LARS needs it"]},
            "fail",
            "hvd.optim.LARS",
        ),
        ({"missing": [f"name {n}" for n in range(7)]}, "fail", "name 4; and 2 more"),
        ({"error": "it hung"}, "warn", "it hung"),
    ],
)
def test_what_another_keras_took_away_is_named(answer, status, word):
    context = Context()
    context.probe = Probe({"tensorflow": {"version": "2"}, "keras": {"version": "3"}, "internals": answer})
    (found,) = import_object("hvdkit.doctor.internals:keras_internals")(context)
    assert (found.status, word in found.detail) == (status, True)
    assert status == "ok" or "pip install 'keras>=" in found.fix


def test_all_promise_the_same_versions():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    promised = {"tensorflow-cpu": setup["options.extras_require"]["cpu"]}
    promised |= {"keras": next(line for line in setup["options"]["install_requires"].split() if "keras" in line)}
    assert f"'{promised['tensorflow-cpu']}'" in TENSORFLOW.install
    assert f"'{promised['keras']}'" in KERAS.install
    for requirement, tested in ((promised["tensorflow-cpu"], TENSORFLOW), (promised["keras"], KERAS)):
        specifier, newest = Requirement(requirement).specifier, tested.newest
        assert (
            specifier.contains(f"{tested.oldest}")
            and specifier.contains(f"{newest}.9")
            and not specifier.contains(f"{newest.major}.{newest.minor + 1}")
        )
    readme = (REPOSITORY / "README.md").read_text()
    python = setup["options"]["python_requires"]
    assert python == ">=3.11,<3.14" and "Python 3.11 to 3.13" in readme
    words = " and ".join(f"{tested.name} {tested.oldest} to {tested.newest}" for tested in (TENSORFLOW, KERAS))
    assert words in readme


@_TENSORFLOW
def test_the_launcher_is_named(whole):
    _, found = diagnose(whole, HOROVOD_RANK="1", HOROVOD_SIZE="2", HOROVOD_LOCAL_RANK="1", HOROVOD_LOCAL_SIZE="2")
    assert found["launched by"]["detail"] == "horovodrun: rank 1 of 2"


def test_help_documents_the_schema(whole):
    said = whole.hvdkit("doctor", "-h").stdout
    for word in ("--json", '"schema": 1', "findings", "Example:"):
        assert word in said


def test_a_check_that_crashes_is_a_finding(monkeypatch):
    monkeypatch.setattr("hvdkit.doctor.machine.network", lambda context: 1 / 0)
    (found,) = examine(["hvdkit.doctor.machine:network"])
    assert found.status == "warn"
    assert "ZeroDivisionError" in found.detail


def test_every_check_can_be_loaded():
    assert all(callable(import_object(check)) for check in CHECKS)


def test_a_status_is_one_of_four():
    with pytest.raises(ValueError, match="status"):
        Finding("x", "bad", "y")


@pytest.mark.parametrize(("cuda", "says"), [(None, "a CPU build"), ("12.5.1", "TensorFlow sees 0")])
def test_gpus_that_tensorflow_does_not_see(tmp_path, monkeypatch, cuda, says):
    """A driver with two GPUs, and a TensorFlow that sees none."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'NVIDIA A100, 580.1'\necho 'NVIDIA A100, 580.1'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    there = framework.TensorFlow("tensorflow", "2.21.0", cuda=cuda)
    monkeypatch.setattr(framework, "installed_tensorflow", lambda: there)
    context = Context()
    context.probe = Probe(parse('hvdkit:{"gpus": {"names": []}}'))
    (found,) = import_object("hvdkit.doctor.machine:gpus")(context)
    assert found.status == "warn"
    assert says in found.detail
    assert found.fix
    fake.write_text("#!/bin/sh\nexit 9\n")
    (found,) = import_object("hvdkit.doctor.machine:gpus")(context)
    assert "driver is in trouble" in found.detail


def test_the_bridge_of_docker_is_a_trap(monkeypatch):
    import socket
    from types import SimpleNamespace

    import psutil

    def address(ip):
        return [SimpleNamespace(family=socket.AF_INET, address=ip)]

    there = {"lo": address("127.0.0.1"), "docker0": address("172.17.0.1"), "ib0": address("10.1.2.3")}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: there)
    trap, rest = import_object("hvdkit.doctor.machine:network")(Context())
    assert trap.status == "warn"
    assert "docker0" in trap.detail
    assert "--network-interfaces ib0" in trap.fix
    assert (rest.status, rest.detail) == ("ok", "ib0 10.1.2.3")


def test_python_itself():
    (found,) = import_object("hvdkit.doctor.software:python")(Context())
    assert sys.executable in found.detail
