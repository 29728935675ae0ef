"""What users see first: the names, the cost of importing, the command line, the doctests, the house's rules."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hvdkit
from hvdkit.utils import env

ROOT = Path(hvdkit.__file__).parent.parent
HEAVY = ("tensorflow", "keras", "horovod", "numpy", "pydantic", "rich")


def _python(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False, cwd=ROOT)


def test_importing_hvdkit_imports_nothing_heavy():
    code = f"import hvdkit, hvdkit.cli, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert _python("-c", code).stdout.strip() == "[]"


def test_help_imports_no_tensorflow():
    code = (
        "import sys\nfrom hvdkit.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as e: assert e.code == 0\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = _python("-c", code)
    assert done.stdout.strip().splitlines()[-1] == "[]" and "install-horovod" in done.stdout


def _cpu_seconds(*args: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(args, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_is_quick():
    """Under 150 ms of CPU time over a bare interpreter: the best of a few, since the machine is shared."""
    helps = min(_cpu_seconds(sys.executable, "-m", "hvdkit", "--help") for _ in range(7))
    bare = min(_cpu_seconds(sys.executable, "-c", "pass") for _ in range(7))
    assert helps - bare < 0.150


def test_every_public_name_loads():
    for name in hvdkit.__all__:
        assert getattr(hvdkit, name) is not None
    for module in (hvdkit, hvdkit.optim, hvdkit.callbacks, hvdkit.strategies):
        assert {name for name in dir(module) if not name.startswith("__")} <= set(module.__all__), "internals leak"
        assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="did you mean 'allreduce'"):
        _ = hvdkit.all_reduce
    from hvdkit.callbacks import BroadcastGlobalVariablesCallback

    assert hvdkit.callbacks.BroadcastGlobalVariablesCallback is BroadcastGlobalVariablesCallback


def test_the_command_line_is_frozen():
    """A verb that goes or changes its name breaks users' scripts: change this list on purpose."""
    from hvdkit.cli import VERBS

    assert list(VERBS) == ["run", "train", "config", "checkpoint", "doctor", "bench", "install-horovod"]


@pytest.mark.parametrize("verb", ["run", "train", "config", "checkpoint", "doctor", "bench", "install-horovod"])
def test_every_verb_has_help_with_an_example(verb):
    done = _python("-m", "hvdkit", verb, "--help")
    assert done.returncode == 0 and "example" in done.stdout.lower(), done.stdout + done.stderr


def test_a_misspelt_verb():
    done = _python("-m", "hvdkit", "docter")
    assert done.returncode == 2 and "did you mean 'doctor'" in done.stderr


MODULES = [m.name for m in pkgutil.walk_packages(hvdkit.__path__, "hvdkit.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name):
    hvdkit.init()
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_the_house_rules_hold():
    lint = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if lint is None:
        pytest.skip("import-linter is not installed: pip install -e '.[dev]'")
    done = subprocess.run([lint, "--config", "setup.cfg"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_ruff_is_clean():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed: pip install -e '.[dev]'")
    for verb in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *verb, "--quiet", "."], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_only_env_reads_the_environment():
    offenders = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "hvdkit").rglob("*.py")
        if path.name != "env.py" and ("os.environ" in path.read_text() or "os.getenv" in path.read_text())
    ]
    assert offenders == []


def test_files_are_small():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in (ROOT / "hvdkit").rglob("*.py")}
    assert {p: n for p, n in lengths.items() if n > 320} == {}


def test_every_test_is_collected(fork_servers):
    """pytest passes over directories with names such as "dist", unless it is told not to."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts="]
    environ = env.child(fork_servers.variables(servers=1))
    found = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False).stdout
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert files <= {line.partition("::")[0] for line in found.splitlines()}


def test_old_names_work_and_say_what_they_are_called_now(monkeypatch):
    with pytest.warns(DeprecationWarning, match=r"hvd\.callbacks\.CommunicationProof is deprecated"):
        assert hvdkit.callbacks.CommunicationProof is hvdkit.callbacks.ConsistencyCheck
    with pytest.warns(DeprecationWarning, match="`every_steps` of ConsistencyCheck is deprecated .* use `every`"):
        assert hvdkit.callbacks.ConsistencyCheck(every_steps=3).every == 3
    with pytest.warns(DeprecationWarning, match=r"hvd\.schedules\.WarmupThenDecay"):
        assert hvdkit.schedules.Recipe is hvdkit.schedules.WarmupThenDecay
    with pytest.warns(DeprecationWarning, match=r"hvd\.strategies\.none"):
        assert hvdkit.strategies.horovod is hvdkit.strategies.none
    hvdkit.shutdown()
    with pytest.warns(DeprecationWarning, match="use `consistency_check`"):
        hvdkit.init(proof=False)
    hvdkit.shutdown()


@pytest.mark.parametrize(("now", "checks"), [(None, False), ("", False), ("1", True)])
def test_an_old_variable_works_where_the_new_one_is_not_set(monkeypatch, now, checks):
    from hvdkit.trainer import patches

    got = []
    monkeypatch.setattr(patches, "install_patches", lambda **how: got.append(how["consistency_check"]))
    monkeypatch.setenv("HVDKIT_PROOF", "0")
    if now is not None:
        monkeypatch.setenv("HVDKIT_CONSISTENCY_CHECK", now)
    hvdkit.shutdown()
    with pytest.warns(DeprecationWarning, match="HVDKIT_PROOF.*HVDKIT_CONSISTENCY_CHECK") as caught:
        hvdkit.init()
    hvdkit.shutdown()
    assert got == [checks]
    assert caught[0].filename == __file__, "the warning names the line that can be changed"
