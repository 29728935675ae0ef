"""Scripts written for Horovod: run as they are with ``-m hvdkit.compat``, and with the one import line changed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hvdkit.utils import env
from tests.machine import launcher_of

SCRIPTS = Path(__file__).parent / "scripts"
NAMES = ("keras_digits", "keras_digits_advanced", "tf2_keras_digits", "tf2_synthetic_benchmark", "tf2_digits")
IMPORT = re.compile(r"^import horovod[\w.]* as hvd$", re.MULTILINE)


def _python(*words: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess:
    variables = env.child()
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=variables, timeout=timeout, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture
def on_two_ranks(fork_servers):
    """Ranks that are forks; what depends on how Keras is imported is tested by processes of their own."""

    def run(*words: str, cwd: Path, launcher: str = "horovodrun") -> str:
        done = _python("-m", "hvdkit", "run", "-np", "2", "--launcher", launcher_of(launcher), *words, cwd=cwd)
        assert done.returncode == 0, done.stdout[-8000:]
        return done.stdout

    with env.during(fork_servers.variables()):
        yield run


def _per_rank(output: str, what: str) -> list[str]:
    said = dict(re.findall(rf"{what} of rank (\d): (.+)", output))
    assert sorted(said) == ["0", "1"], output[-4000:]
    return [said["0"], said["1"]]


def _check(name: str, output: str) -> None:
    first, second = _per_rank(output, "weights")
    assert first == second
    if name == "tf2_synthetic_benchmark":
        assert float(re.search(r"Total img/sec on 2 worker\(s\): ([\d.]+)", output).group(1)) > 0
    else:
        assert float(re.search(r"Test accuracy: ([\d.]+)", output).group(1)) > 0.8
    if name == "keras_digits_advanced":
        assert len(set(_per_rank(output, "metrics"))) == 1
        assert "rates: ['0.1000', '0.1000', '0.0100']" in output
    if name == "tf2_digits":
        assert len(set(_per_rank(output, "loss"))) == 1


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_unmodified_on_two_ranks(name, tmp_path, on_two_ranks):
    output = on_two_ranks("-m", "hvdkit.compat", str(SCRIPTS / f"{name}.py"), cwd=tmp_path)
    _check(name, output)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_with_one_line_changed_on_two_ranks(name, tmp_path, on_two_ranks):
    text, changes = IMPORT.subn("import hvdkit as hvd", (SCRIPTS / f"{name}.py").read_text())
    assert changes == 1 and "horovod." not in text
    (tmp_path / "train.py").write_text(text)
    launcher = "mpirun" if name in {"keras_digits", "tf2_digits"} else "horovodrun"
    _check(name, on_two_ranks("train.py", cwd=tmp_path, launcher=launcher))


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_that_do_not_communicate_are_seen(tmp_path, on_two_ranks):
    """The check of equal weights can fail: without the tape the ranks drift apart after the broadcast."""
    text = (SCRIPTS / "tf2_digits.py").read_text()
    plain = text.replace("    tape = hvd.DistributedGradientTape(tape, compression=compression)\n", "")
    assert plain != text
    (tmp_path / "train.py").write_text(plain)
    output = on_two_ranks("-m", "hvdkit.compat", "train.py", cwd=tmp_path)
    first, second = _per_rank(output, "weights")
    assert first != second


@pytest.mark.dist
@pytest.mark.slow
def test_collectives_of_horovod_tensorflow(tmp_path, on_two_ranks):
    output = on_two_ranks("-m", "hvdkit.compat", str(SCRIPTS / "collectives.py"), cwd=tmp_path)
    assert _per_rank(output, "done") == ["yes", "yes"]


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_errors_of_horovods_types(launcher, tmp_path, on_two_ranks):
    words = ("-m", "hvdkit.compat", str(SCRIPTS / "error_types.py"))
    assert _per_rank(on_two_ranks(*words, cwd=tmp_path, launcher=launcher), "done") == ["yes", "yes"]


KERAS_2 = (
    "keras.layers.core", "keras.preprocessing.image.ImageDataGenerator", "keras.utils.np_utils",
    "keras.optimizers.legacy", "optimizer(lr=)", "compile(experimental_run_tf_function=)", "model.fit_generator",
    "model.evaluate_generator", "optimizer.lr", "keras.backend.get_value", "keras.backend.set_value",
    "optimizer.variables()", "tf.ConfigProto", "tf.Session", "keras.backend.set_session",
)  # fmt: skip


@pytest.mark.dist
@pytest.mark.slow
def test_keras_2_under_horovodrun_itself(tmp_path):
    """Each idiom is told once, by rank 0, and the training comes out right."""
    script = str(SCRIPTS / "keras2_idioms.py")
    launcher = Path(sys.executable).with_name("horovodrun")
    done = _python(str(launcher), "--gloo", "-np", "2", sys.executable, "-m", "hvdkit.compat", script, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8000:]
    _check("keras2_idioms", done.stdout)
    assert "rate: 0.0250, 8 variables" in done.stdout
    for idiom in KERAS_2:
        told = [line for line in done.stdout.splitlines() if f"] {idiom}: " in line]
        assert len(told) == 1 and "[hvdkit rank 0]" in told[0], (idiom, told)


KERAS_CHECKS = ("idiom_checks", "keras2_checks", "keras2_behaviour_checks")


def _checks(name: str, *words: str, cwd: Path) -> dict[str, str]:
    done = _python(*words, str(SCRIPTS.parent / f"{name}.py"), cwd=cwd)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert results, done.stdout[-4000:]
    return json.loads(results[0].removeprefix("RESULTS "))


@pytest.mark.parametrize("name", [*KERAS_CHECKS, "inside_checks"])
def test_under_compat(name, tmp_path):
    results = _checks(name, "-m", "hvdkit.compat", cwd=tmp_path)
    failed = {check: told for check, told in results.items() if told != "ok"}
    assert results and not failed, json.dumps(failed, indent=1)


@pytest.mark.parametrize("name", KERAS_CHECKS)
@pytest.mark.usefixtures("forked_programs")
def test_without_compat_nothing_is_mapped(name, tmp_path):
    """Every check can fail, and `import hvdkit` alone puts nothing into Keras and stands for nothing."""
    results = _checks(name, cwd=tmp_path)
    assert len(results) > 10
    assert not [check for check, told in results.items() if told == "ok"]


SCRIPT = """\
import os, sys
assert not {"tensorflow", "keras"} & sys.modules.keys()  # what a script sets before it imports them still counts
import neighbour
print(__name__, sys.argv[1:], os.path.basename(sys.argv[0]), os.path.realpath(sys.path[0]))
import horovod.keras as hvd
hvd.init()
print(hvd.rank(), hvd.size())
def f():
    sys.exit(7) if sys.argv[1] == "exit" else 1 / 0
f()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("script")
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "neighbour.py").write_text("")
    (folder / "train.py").write_text(SCRIPT)
    (folder / "pkg" / "train.py").write_text(SCRIPT)
    return folder / "train.py"


def test_the_script_is_run_as_python_runs_it(script, tmp_path):
    done = _python("-m", "hvdkit.compat", str(script), "exit", "--flag", cwd=tmp_path)
    assert done.returncode == 7
    assert f"__main__ ['exit', '--flag'] train.py {script.parent}" in done.stdout
    assert "0 1" in done.stdout.splitlines()


def test_a_module_and_its_traceback(script):
    done = _python("-m", "hvdkit.compat", "-m", "pkg.train", "raise", cwd=script.parent)
    assert done.returncode == 1
    assert f"__main__ ['raise'] train.py {script.parent}" in done.stdout
    traceback = done.stdout[done.stdout.index("Traceback") :]
    assert traceback.endswith("ZeroDivisionError: division by zero\n")
    frames = re.findall(r'File "([^"]+)"', traceback)
    assert frames == [str(script.parent / "pkg" / "train.py")] * 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [([], 2, "usage:"), (["--help"], 0, "usage:"), (["trian.py"], 1, "train.py"), (["-m", "no_such"], 1, "no_such")],
)
def test_what_cannot_be_run(words, code, said, script):
    done = _python("-m", "hvdkit.compat", *words, cwd=script.parent)
    assert (done.returncode, said in done.stdout, "Traceback" in done.stdout) == (code, True, False), done.stdout
