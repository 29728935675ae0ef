"""The scripts of the repository: what they answer to who calls them, such as CI."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"

# Ends as pytest would: with one code for the tests that run alone, with another for the rest.
PYTHON = """#!/bin/sh
case "$*" in *"not alone"*) exit $REST ;; *) exit $ALONE ;; esac
"""


@pytest.mark.parametrize(
    ("alone", "rest", "code"),
    [
        (0, 0, 0),
        (5, 0, 0),  # 5: none of the tests that were asked for is in this part
        (0, 5, 0),
        (5, 5, 5),
        (1, 0, 1),
        (0, 1, 1),
        (1, 5, 1),
        (5, 1, 1),
        (1, 2, 2),
        (2, 0, 2),
    ],
)
def test_the_tests_fail_where_a_part_of_them_does(tmp_path, alone, rest, code):
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "test.sh", tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text("prepare() { :; }\nsay() { :; }\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    environ = {"PATH": "/usr/bin:/bin", "ALONE": str(alone), "REST": str(rest)}
    done = subprocess.run(
        ["bash", tmp_path / "scripts" / "test.sh", "fast"], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")
