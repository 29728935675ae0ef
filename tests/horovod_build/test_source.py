"""The edits of Horovod's sources, and the archive's hash."""

import configparser
import subprocess
import sys

import pytest

from hvdkit.errors import HorovodBuildError
from hvdkit.horovod_build import cache, source


def make_tree(folder, times):
    """A tree in which each edit's place stands ``times`` times."""
    for edit in source.EDITS:
        path = folder / edit.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before\n" + f"  {edit.old}\n" * times + "after\n")
    return folder


def test_each_edit_is_made_and_reported(tmp_path):
    tree = make_tree(tmp_path, 1)
    said = source.patch(tree)
    assert len(said) == len(source.EDITS) == 5
    for edit, line in zip(source.EDITS, said, strict=True):
        assert (tree / edit.file).read_text() == f"before\n  {edit.new}\nafter\n"
        assert edit.file in line


@pytest.mark.parametrize("times", [0, 2])
def test_a_place_that_is_not_there_once_is_an_error_and_nothing_is_written(tmp_path, times):
    tree = make_tree(tmp_path, 1)
    broken = source.EDITS[1]
    (tree / broken.file).write_text(f"{broken.old}\n" * times)
    before = {edit.file: (tree / edit.file).read_text() for edit in source.EDITS}
    with pytest.raises(HorovodBuildError, match=rf"gloo_controller\.cc.* {times} times"):
        source.patch(tree)
    assert {edit.file: (tree / edit.file).read_text() for edit in source.EDITS} == before


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(HorovodBuildError, match=r"have no horovod/tensorflow/CMakeLists\.txt"):
        source.patch(tmp_path)


def test_another_archive_is_refused(tmp_path):
    archive = tmp_path / source.ARCHIVE
    archive.write_bytes(b"not Horovod")
    with pytest.raises(HorovodBuildError, match="SHA-256"):
        source.check_archive(archive)


def test_a_changed_edit_changes_the_digest(monkeypatch):
    before = source.digest()
    monkeypatch.setattr(source, "EDITS", source.EDITS[:1])
    assert source.digest() != before


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The real release: from the user's cache, else from the package index."""
    kept = cache.root() / "source" / source.ARCHIVE
    if kept.is_file():
        return kept
    folder = tmp_path_factory.mktemp("archive")
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    argv += ["--dest", str(folder), f"horovod=={source.HOROVOD}"]
    if subprocess.run(argv, capture_output=True, cwd=folder, timeout=300, check=False).returncode:
        pytest.skip("the package index cannot be reached")
    return folder / source.ARCHIVE


def test_the_release_takes_the_edits_and_the_stamp(archive, tmp_path):
    source.check_archive(archive)
    tree = source.unpack(archive, tmp_path)
    assert len(source.patch(tree)) == len(source.EDITS)
    with pytest.raises(HorovodBuildError, match="0 times"):
        source.patch(tree)  # they are made
    source.add_stamp(tree, "{}")
    setup = configparser.ConfigParser()
    setup.read(tree / "setup.cfg")
    assert setup["options.package_data"]["horovod"] == "hvdkit_build.json"
    assert (tree / "horovod/hvdkit_build.json").is_file()
