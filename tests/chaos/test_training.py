"""A whole training on a full disk, beside another job, out of time, and started once more after its end."""

from __future__ import annotations

import subprocess
import time

import pytest

from hvdkit.checkpoint.storage.store import Store
from hvdkit.utils import env
from tests.chaos.common import ROOT
from tests.chaos.jobs import command, run, same

pytestmark = [pytest.mark.dist, pytest.mark.timeout(300)]


def test_on_a_full_disk_training_goes_on(tmp_path, small_disk):
    out = tmp_path / "full"
    (small_disk / "checkpoints").mkdir()
    out.mkdir()
    (out / "checkpoints").symlink_to(small_disk / "checkpoints")
    text = run(out, 1, fill=9, every=4, slow=0.01)
    assert "No space left on device" in text and "Training continues." in text and "Traceback" not in text
    store = Store(small_disk / "checkpoints")
    assert store.steps() == [8, 4]
    assert [store.verify(step).manifest.step for step in store.steps()] == [8, 4]
    run(tmp_path / "straight", 1, every=4)
    same(tmp_path / "straight", out, 1)


def test_a_second_job_is_refused_and_told_whose_it_is(tmp_path):
    first = subprocess.Popen(
        command(tmp_path, 1, slow=0.5), cwd=ROOT, env=env.child(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not (tmp_path / "rows-0-0.jsonl").exists():
            time.sleep(0.1)
            assert first.poll() is None
        time.sleep(1)
        text = run(tmp_path, 2, code=1)
        assert "is in use by process" in text and str(first.pid) in text
        assert first.poll() is None, "the first job ended"
    finally:
        first.kill()
        first.wait()


def test_out_of_time_again_and_again(tmp_path):
    """It is started anew until it is through, each time with a little time, and is the straight run."""
    for _ in range(20):
        text = run(tmp_path / "short", 1, code=None, max_time=4, slow=0.2, every=1000, epochs=2)
        if "Exit code 75" not in text:
            break
        assert "ending: max_time" in text
    else:
        raise AssertionError("it never came to its end")
    run(tmp_path / "straight", 1, every=1000, epochs=2)
    same(tmp_path / "straight", tmp_path / "short", 1)


def test_after_its_end_it_trains_no_more(tmp_path):
    run(tmp_path, 1)
    steps = Store(tmp_path / "checkpoints").steps()
    before = (tmp_path / "rows-0-0.jsonl").read_text()
    text = run(tmp_path, 1)
    assert f"Going on from step {steps[0]}" in text
    assert (tmp_path / "rows-0-0.jsonl").read_text() == before
