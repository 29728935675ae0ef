"""A configuration with names that have become others: it works, it says so, and errors speak of what was written."""

from __future__ import annotations

import warnings

import pytest

from hvdkit.app import config
from hvdkit.errors import ConfigError


def _load(tmp_path, text: str, *overrides: str):
    path = tmp_path / "old.yaml"
    path.write_text(text)
    return config.load_config(path, overrides)


def test_they_work_and_say_what_they_are_called_now(tmp_path):
    with pytest.warns(DeprecationWarning) as told:
        loaded = _load(tmp_path, "local_sgd: {k: 4, start: 10}\n")
    assert (loaded.local_sgd.sync_period, loaded.local_sgd.start_step) == (4, 10)
    assert [str(warning.message).split(" is deprecated")[0] for warning in told] == [
        "`local_sgd.k` in a configuration",
        "`local_sgd.start` in a configuration",
    ]
    assert "use `local_sgd.sync_period`" in str(told[0].message)


def test_those_of_other_values(tmp_path):
    text = "lr: {base: 0.1, base_batch: 64, after: constant}\nproof_every_steps: 5\nstrategy: hybrid\n"
    with pytest.warns(DeprecationWarning) as told:
        loaded = _load(tmp_path, text)
    assert (loaded.lr.base_batch_size, loaded.lr.decay, loaded.consistency_check_every) == (64, "constant", 5)
    assert loaded.strategy == "mirrored_per_host" and len(told) == 4


@pytest.mark.parametrize(("old", "new"), [("horovod", "none"), ("hybrid", "mirrored_per_host")])
def test_a_strategy_with_arguments(tmp_path, old, new):
    with pytest.warns(DeprecationWarning, match=f"`strategy: {old}` in a configuration .* use `strategy: {new}`"):
        strategy = _load(tmp_path, f"strategy: {{name: {old}, devices: 2}}\n").strategy
    assert (strategy.name, strategy.arguments()) == (new, {"devices": 2})


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("proof_every_steps: -1", (), "`proof_every_steps`: input should be greater than or equal to 1"),
        ("lr: {base: 0.1, base_batch: -5}", (), "`lr.base_batch`: input should be greater"),
        ("lr: {base: 0.1, after: {name: 2}}", (), "`lr.after.name`: input should be a valid string"),
        ("lr: {base: 0.1, after: {nam: x}}", (), "the key `lr.after.name` is missing"),
        ("local_sgd: {k: 0}", (), "`local_sgd.k`: input should be greater"),
        ("local_sgd: {k: 0}", ("local_sgd.sync_period=-1",), "`local_sgd.sync_period`: input should be greater"),
        ("local_sgd: {sync_period: 0}", ("local_sgd.k=-1",), "`local_sgd.k`: input should be greater"),
        ("lr: {after: constant}", ("lr.after.name=x",), "--set lr.after.name: 'after' is a text, which has no keys"),
        (
            "lr: {base: 0.1, base_batch: 5, base_batch_size: 5}",
            (),
            "old.yaml: `lr.base_batch` is the old name of `lr.base_batch_size`, and both are given.",
        ),
        (
            "proof_every_steps: 3\nconsistency_check_every: 3",
            (),
            "old.yaml: `proof_every_steps` is the old name of `consistency_check_every`, and both are given.",
        ),
        (
            "epochs: 1",
            ("lr={base: 0.1, base_batch: 5, base_batch_size: 5}",),
            "--set lr: `lr.base_batch` is the old name of `lr.base_batch_size`, and both are given.",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*in a configuration:DeprecationWarning")
def test_errors_name_what_was_written(tmp_path, text, overrides, says):
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, *overrides)
    assert says in caught.value.what


@pytest.mark.parametrize(
    ("text", "override"),
    [
        ("lr: {base: 0.1, base_batch_size: 5}", "lr.base_batch=7"),
        ("lr: {base: 0.1, base_batch: 5}", "lr.base_batch_size=7"),
        ("lr: {base: 0.1, base_batch: 5}", "lr.base_batch=7"),
        ("lr: {base: 0.1, base_batch: 5}", "lr={base: 0.1, base_batch: 7}"),
        ("lr: {base: 0.1, base_batch_size: 5}", "lr={base: 0.1, base_batch: 7}"),
    ],
)
def test_an_override_by_either_name_counts(tmp_path, text, override):
    with pytest.warns(DeprecationWarning, match=r"`lr\.base_batch` in a configuration"):
        assert _load(tmp_path, text, override).lr.base_batch_size == 7


def test_an_override_inside_of_what_had_another_name(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"`lr\.after` in a configuration"):
        decay = _load(tmp_path, "lr: {base: 0.1, decay: {name: step, factor: 0.5}}", "lr.after.factor=0.1").lr.decay
    assert (decay.name, decay.arguments()) == ("step", {"factor": 0.1})


def test_new_names_do_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _load(tmp_path, "lr: {base: 0.1}", "lr.base_batch_size=7", "strategy=none").lr.base_batch_size == 7
