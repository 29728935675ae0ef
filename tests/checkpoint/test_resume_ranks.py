"""A training that was killed and goes on is the same training, to the last bit."""

from __future__ import annotations

import functools
import itertools
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from hvdkit.checkpoint.storage.store import Store
from hvdkit.data.epoch_plan import global_plan
from hvdkit.errors import REQUEUE_EXIT_CODE
from tests.chaos.common import count
from tests.chaos.job import DEFAULTS
from tests.chaos.jobs import final, rows, run, same

# The ranks that kill themselves are forks too: what is looked at is what they saved, and not how their parents take it.
pytestmark = [pytest.mark.dist, pytest.mark.usefixtures("forked_ranks")]


# ranks, policy, compression, accumulation
CASES = [
    (1, "float32", "none", None),
    (2, "float32", "none", None),
    (2, "mixed_float16", "fp16", None),
    (3, "mixed_float16", "none", None),
    *[(2, "float32", "none", 3), (3, "float32", "fp16", None), (1, "mixed_float16", "none", 2)][: count(0, 3)],
]


@pytest.mark.parametrize(("ranks", "policy", "compression", "accumulate"), CASES)
@pytest.mark.timeout(3000)
def test_a_killed_run_that_goes_on_is_the_straight_run(tmp_path, ranks, policy, compression, accumulate):
    """SIGKILL of one rank before a step, in the middle of an epoch or at its end; the rest goes by itself."""
    how = {"policy": policy, "compression": compression, "accumulate": accumulate}
    run(tmp_path / "straight", ranks, **how)
    per_epoch = _steps(DEFAULTS["samples"], ranks)
    steps = DEFAULTS["epochs"] * per_epoch
    chosen = random.Random(ranks).sample(range(3, steps), min(10, steps - 4))
    # The long run has both and more; of the short one's cases some are killed where an epoch ends.
    at_end = [2 * per_epoch] if count(0, 1) or policy == "float32" else []
    kills = list(dict.fromkeys([*at_end, *chosen]))
    for kill in kills[: count(1, 11)]:
        out = tmp_path / f"killed-{kill}"
        text = run(out, ranks, restarts=1, kill=kill, victim=kill % ranks, slow=0.1, **how)
        assert "Going on from step" in text
        same(tmp_path / "straight", out, ranks)
        for straight, first, second in zip(
            rows(tmp_path / "straight", ranks), rows(out, ranks), rows(out, ranks, 1), strict=True
        ):
            assert second == straight[len(straight) - len(second) :]
            assert first == straight[: len(first)]
            assert len(first) + len(second) >= len(straight)


@pytest.mark.parametrize("data", ["split", "stream", "files"][: count(2, 3)])
@pytest.mark.timeout(600)
def test_in_the_middle_of_an_epoch_of_other_data(tmp_path, data):
    run(tmp_path / "straight", 2, data=data)
    text = run(tmp_path / "killed", 2, restarts=1, kill=13, slow=0.1, data=data)
    assert "Going on from step 12" in text or "Going on from step 10" in text
    same(tmp_path / "straight", tmp_path / "killed", 2)


def _steps(samples: int, ranks: int) -> int:
    return -(-samples // (DEFAULTS["batch"] * ranks))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (3, 2)])
@pytest.mark.timeout(600)
def test_on_other_ranks_each_sample_of_the_epoch_comes_once(tmp_path, before, after):
    kill = 11  # in the second epoch
    run(tmp_path, before, code=None, kill=kill, every=1, background=False)
    saved = Store(tmp_path / "checkpoints").steps()[0]
    first = [[line for line in rank if line[1] < saved] for rank in rows(tmp_path, before)]
    for path in tmp_path.glob("rows-*"):
        path.unlink()
    text = run(tmp_path, after)
    assert f"Going on from step {saved}" in text
    second = rows(tmp_path, after)
    assert min(line[1] for line in second[0]) == saved, "another global step"
    past, done = divmod(saved, _steps(DEFAULTS["samples"], before))
    sizes, passed = [DEFAULTS["batch"]] * after, done * DEFAULTS["batch"] * before
    rest = global_plan(DEFAULTS["samples"], sizes, drop=False, offset=passed)
    later = (DEFAULTS["epochs"] - past - 1) * _steps(DEFAULTS["samples"], after)
    left = DEFAULTS["samples"] - passed
    settled = global_plan(DEFAULTS["samples"], sizes, drop=False).has_empty  # of a whole epoch on these ranks
    assert rest.counts.sum() == left and (not rest.has_empty or settled or left < after)
    assert all(len(rank) == rest.steps + later for rank in second)
    seen = Counter((line[0], row) for rank in [*first, *second] for line in rank for row in line[2])
    assert seen == Counter((e, r) for e in range(DEFAULTS["epochs"]) for r in range(DEFAULTS["samples"]))
    weights = [final(tmp_path, rank) for rank in range(after)]
    assert all(w["weights/00000"].tobytes() == weights[0]["weights/00000"].tobytes() for w in weights)


TOLD = {
    "one": [[5, 0, signal.SIGTERM]],
    "the other": [[5, 1, signal.SIGTERM]],
    "all": [[5, -1, signal.SIGTERM]],
    "twice": [[5, 0, signal.SIGTERM], [6, 0, signal.SIGTERM], [6, 1, signal.SIGTERM]],
    "SIGUSR1": [[5, 1, signal.SIGUSR1]],
    "during the first compile": [[0, 1, signal.SIGTERM]],
    "during a save": [[5, 1, signal.SIGTERM]],
    "at the last step": [[31, 0, signal.SIGTERM]],
}


SHORT = [("mpirun", "the other"), ("mpirun", "during the first compile"), ("mpirun", "at the last step")]
SHORT += [("horovodrun", "twice")]


@functools.cache
def _straight(launcher: str, folder: Path) -> Path:
    run(folder / "straight", 2, launcher=launcher, **TELLING)
    return folder / "straight"


TELLING = {"every": 1000, "epochs": 4}  # the ranks ask one another every dozen steps


@pytest.mark.parametrize(
    ("launcher", "told"), SHORT if not count(0, 1) else itertools.product(["mpirun", "horovodrun"], TOLD)
)
@pytest.mark.timeout(3000)
def test_told_to_end_it_saves_and_goes_on(tmp_path, tmp_path_factory, launcher, told):
    """On one step on both ranks, without a step lost, and what goes on from there is the straight run."""
    how = {**TELLING, "launcher": launcher, "every": 1 if told == "during a save" else 1000}
    straight = _straight(launcher, tmp_path_factory.getbasetemp() / launcher)
    for attempt in range(count(1, 7)):
        out = tmp_path / f"told-{attempt}"
        later = [[step + attempt if 0 < step < 31 else step, *rest] for step, *rest in TOLD[told]]
        text = run(out, 2, code=REQUEUE_EXIT_CODE, signals=later, slow=0.08, **how)
        saved = Store(out / "checkpoints").steps()
        done = [len(rank) for rank in rows(out, 2)]
        assert saved and saved[0] == done[0] == done[1], (text, saved, done)
        assert (saved[0] == 32) == (told == "at the last step")
        run(out, 2, **how)
        # With nothing left to train there is no last epoch to have metrics of.
        same(straight, out, 2, but="metrics" if told == "at the last step" else None)
