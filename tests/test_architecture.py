"""The architecture page shows the package as it is."""

from __future__ import annotations

import re
from pathlib import Path

import hvdkit
from scripts.architecture import PAGE, with_tree

PACKAGE = Path(hvdkit.__file__).parent


def test_its_tree_is_that_of_the_package():
    assert PAGE.read_text() == with_tree(PAGE.read_text()), "run: python scripts/architecture.py"


def test_every_file_it_names_is_there():
    text = PAGE.read_text().partition("## The tree")[0]
    for path in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        assert (PACKAGE / path).exists() or (PACKAGE.parent / path).exists(), path
    for name in re.findall(r"`(\w+\.py)`", text):
        assert any(PACKAGE.rglob(name)), name
    for folder in re.findall(r"`((?:\w+/)+)`", text):
        assert (PACKAGE / folder).is_dir() or (PACKAGE.parent / folder).is_dir(), folder
