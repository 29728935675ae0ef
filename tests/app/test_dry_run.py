"""`hvdkit train --dry-run` says what the training would say, before any rank is there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import hvdkit as hvd
from hvdkit.cli import main

SHIPPED = str(Path(hvd.__file__).parent.parent / "configs" / "digits.yaml")


def dry_run(capsys, *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["train", SHIPPED, "--dry-run", *words])
    except SystemExit as end:
        code = end.code or 0
    done = capsys.readouterr()
    return code, done.out, done.err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.name=cn", "Unknown model 'cn'. Known: cnn, mlp, resnet."),
        ("model.filterz=1", "unexpected keyword argument 'filterz'"),
        ("model.filters=-1", "The model of the configuration cannot be created"),
        ("model.name=nowhere:model", "No module named 'nowhere'"),
        ("model.name=os:nothing", "has no attribute 'nothing'"),
        ("model.name=os:sep", "'os:sep' in the configuration is not a function, but '/'."),
        ('model.name=":"', "':' in the configuration names no model."),
        ("model.name=.a:b", "'.a:b' in the configuration names no model."),
        ("optimizer.name=adamm", "The optimizer of the configuration cannot be created"),
        ("optimizer.learning_rat=1", "learning_rat"),
        ("strategy=mirored", "Unknown strategy 'mirored'"),
        ("strategy={name: mirrored, devces: 1}", "unexpected keyword argument 'devces'"),
        ("compression=fp61", "Unknown compression 'fp61'"),
        ("compression={name: fp16, ratio: 1}", "The compression of the configuration cannot be created"),
        ("loss=huh", "The loss of the configuration cannot be created"),
        ("metrics=[acuracy]", "The metrics of the configuration cannot be created"),
        ("data.name=nothing", "Unknown data set 'nothing'"),
        ("checkpoint.max_time=abc", "`checkpoint.max_time`: must be seconds"),
        ("batch_size={global: 33}", "33 samples cannot be divided equally among 2 ranks"),
        ("lr={base: 0.1}", "`lr` and `optimizer.learning_rate` are both"),
        ("label_smoothing=2", "`label_smoothing`"),
    ],
)
def test_what_does_not_exist_is_named(capsys, override, says):
    code, out, err = dry_run(capsys, "-np", "2", "--set", override)
    assert code == 1
    assert err.startswith("hvdkit: ") and says in err
    assert out == ""


def test_the_model_is_not_built_where_only_the_data_of_the_user_know_its_shape(capsys, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def data():\n    raise AssertionError('this takes an hour')\n")
    monkeypatch.chdir(tmp_path)
    code, out, _ = dry_run(capsys, "--set", "data.name=mine:data")
    assert code == 0
    assert yaml.safe_load(out)["data"]["name"] == "mine:data"
    code, _, err = dry_run(capsys, "--set", "data.name=mine:data", "--set", "model.filterz=1")
    assert code == 1 and "filterz" in err


@pytest.mark.parametrize(
    "override", ["epochs=7", "local_sgd={sync_period: 4}", "strategy=mirrored", "batch_size={global: 34}"]
)
def test_what_is_fine_is_shown(capsys, override):
    code, out, err = dry_run(capsys, "-np", "2", "--set", override)
    assert (code, err) == (0, "")
    key, _, value = override.partition("=")
    shown = yaml.safe_load(out)[key]
    expected = yaml.safe_load(value)
    assert shown == expected or expected.items() <= shown.items()
