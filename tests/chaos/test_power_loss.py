"""The power goes at any moment: what was committed is there and whole, and nothing else is taken for a checkpoint."""

from __future__ import annotations

import random
import shutil

import pytest

from hvdkit.checkpoint.storage import disk
from hvdkit.checkpoint.storage.format import DamagedCheckpointError
from hvdkit.checkpoint.storage.store import RetentionPolicy, Store
from tests.chaos.common import count, is_right, left_over, save, save_other, value_of
from tests.chaos.power import Recorder, build, state_after

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def recorded(quick_path):
    """Six saves with a prune after each, and one step saved again over a damaged one; what each moment promised."""
    recorder = Recorder(quick_path)
    store = Store(quick_path / "store")
    promises = []  # (number of operations, what happened, steps); what is damaged is so until it is committed again
    with recorder:
        for step in (10, 20, 30, 40, 50, 60):
            save(store, step)
            promises.append((len(recorder.events), "committed", [step]))
            gone = store.prune(RetentionPolicy(last=2), dry_run=True)
            promises.append((len(recorder.events), "may be gone", gone))
            assert store.prune(RetentionPolicy(last=2)) == gone
        promises.append((len(recorder.events), "damaged", [60]))
        _damage_without_a_word(recorder, store, 60)
        save(store, 60, "other")
        promises.append((len(recorder.events), "committed", [60]))
        save_other(store, 50, 17.0)  # over a valid one: it, or the new one, is there at each moment
    return recorder.events, promises


def _damage_without_a_word(recorder, store, step):
    path = store.path(step) / "common.safetensors"
    data = path.read_bytes()
    descriptor = disk.create(path)
    disk.write(descriptor, data[:-1] + b"\xff")
    disk.fsync(descriptor)
    disk.close(descriptor)


def promised(promises, moment):
    """The steps that must be there, and those that the test itself damaged."""
    steps, damaged = set(), set()
    for number, what, which in promises:
        if number <= moment:
            steps = steps | set(which) if what == "committed" else steps - set(which)
            damaged = damaged | set(which) if what == "damaged" else damaged - set(which)
    return steps, damaged


def test_the_model_agrees_with_the_disk(recorded, quick_path):
    """Where everything is synced, the model's disk is the real one."""
    events, _ = recorded
    root = state_after(events)
    store = root.names["store"]
    on_disk = {str(p.relative_to(quick_path / "store")) for p in (quick_path / "store").rglob("*")}
    assert on_disk == {*store.names, *(f"{name}/{file}" for name in store.names for file in store.names[name].names)}
    for name, directory in store.names.items():
        for file, content in directory.names.items():
            assert content.data == (quick_path / "store" / name / file).read_bytes()


def test_the_power_goes(recorded, quick_path):
    events, promises = recorded
    losses = count(150, 1000)
    chance = random.Random(11)
    outcomes = {"right": 0, "refused": 0, "left over": 0}
    for number in range(losses):
        moment = chance.randrange(1, len(events) + 1)
        lost = quick_path / "lost"
        build(state_after(events[:moment]), lost, chance)
        store = Store(lost / "store")
        label = f"loss {number} after {moment} of {len(events)} operations"
        must, damaged = promised(promises, moment)
        assert must <= set(store.steps()), label
        for step in store.steps():
            try:
                other = step == 50 and value_of(store, step) == 17.0
                assert other or is_right(store, step), f"{label}: step {step} is taken for what it is not"
                outcomes["right"] += 1
            except DamagedCheckpointError as error:
                # Also what is going to be removed is whole as long as it has its name.
                assert step in damaged, f"{label}: {error}"
                outcomes["refused"] += 1
        newest = store.newest_valid()
        assert (newest.manifest.step if newest else 0) >= max(must, default=0), label
        if store.directory.exists():
            outcomes["left over"] += len(left_over(store))
            store.clean("next")
            assert left_over(store) == [], label
        shutil.rmtree(lost)
    print(f"{losses} losses among {len(events)} operations: {outcomes}")
    assert outcomes["right"] > losses / 2 and outcomes["left over"] > 0
