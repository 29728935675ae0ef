"""A job killed at random moments while it saves and prunes: nothing that was reported is lost."""

from __future__ import annotations

import pytest

from tests.chaos.common import count, run_module

pytestmark = pytest.mark.timeout(3600)


def test_kills_at_random_moments(tmp_path):
    kills = count(15, 500)
    result = run_module("kills", tmp_path / "store", kills, 7)
    assert result["wrong"] == []
    assert result["kills"] == kills and result["steps"] >= kills / 10
    assert result["moments"]["within a save"] > 0
