"""Checkpoints made to do harm are refused by name, with little memory, and nothing is written or followed."""

from __future__ import annotations

import os

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.store import RetentionPolicy, Store
from tests.chaos.common import run_module, save


def test_hostile_checkpoints_are_refused(tmp_path):
    result = run_module("hostile", tmp_path, timeout=300)
    assert result["wrong"] == {}
    assert result["cases"] >= 30
    assert result["peak_mb"] < 800
    assert result["slowest"] < 20


def test_what_is_removed_is_not_followed(tmp_path):
    """Links in a store, and in what is removed from it, go; what they point to stays."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("here")
    store = Store(tmp_path / "store")
    for step in (1, 2):
        save(store, step)
    for name in (".incoming-step-000000009-other", ".deleting-step-000000009", ".damaged-step-000000009-other"):
        (store.directory / name).symlink_to(outside)
    (store.path(1) / "link").symlink_to(outside)
    (store.directory / "step-000000000").symlink_to(outside)
    assert len(store.clean("next")) == 3
    assert store.prune(RetentionPolicy(last=1)) == [1, 0]
    assert sorted(os.listdir(store.directory)) == ["step-000000002"]
    assert (outside / "precious").read_text() == "here"


def test_a_name_that_is_not_ours_is_not_touched(tmp_path):
    store = Store(tmp_path)
    names = [".incoming", ".incoming-notes", "step-12", "step-000000012.bak", "step-0000000000012", ".deleting-me", "a"]
    for name in names:
        (tmp_path / name).mkdir()
    save(store, 1)
    assert store.clean("next") == []
    assert store.steps() == [1]
    assert set(names) < set(os.listdir(tmp_path))


def test_a_draft_does_not_write_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("here")
    store = Store(tmp_path / "store")
    writer = store.writer(1, "run")
    (writer.path / "common.safetensors").symlink_to(outside)
    try:
        writer.write("common", {})
    except Exception as error:
        assert type(error).__name__ == "CheckpointWriteError"
    assert outside.read_text() == "here"
    assert disk.sha256(outside)
