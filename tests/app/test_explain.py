"""What a configuration means: batches, rates, the table and the plot; and that training has just these rates."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import hvdkit as hvd
from hvdkit.app import config, train
from hvdkit.app.explain import rates, table
from hvdkit.cli import main
from hvdkit.errors import ConfigError, UsageError

ROOT = Path(hvd.__file__).parent.parent
LR = "lr={base: 0.1, base_batch_size: 256, scale: linear, warmup_epochs: 5, decay: cosine}"


def _config(tmp_path, text, *overrides):
    (tmp_path / "c.yaml").write_text(text)
    return config.load_config(tmp_path / "c.yaml", overrides)


def test_the_batch_of_each_rank(tmp_path):
    assert [_config(tmp_path, "batch_size: 48").batch_of_each(n) for n in (1, 8)] == [48, 48]
    assert _config(tmp_path, "batch_size: {per_rank: 16}").batch_of_each(3) == 16
    whole = _config(tmp_path, "batch_size: {global: 96}\noptimizer: {name: sgd, gradient_accumulation_steps: 3}")
    assert [whole.batch_of_each(n) for n in (1, 2, 4)] == [32, 16, 8]
    with pytest.raises(ConfigError, match="use 90 or 105"):
        whole.batch_of_each(5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("batch_size: {global: 32, per_rank: 8}", "either per_rank or global"),
        ("batch_size: {}", "either per_rank or global"),
        ("batch_size: {globl: 32}", "globl"),
        ("batch_size: 0", "batch_size"),
        ("batch_size: true", "a number of samples"),
        ("batch_size: {glbal: 3}", "did you mean 'global'"),
        ("lr: {base: 0.1, scal: linear}", "unknown key `lr.scal`"),
        ("lr: {base: -1}", "lr.base"),
        ("label_smoothing: 1.0", "label_smoothing"),
        ("local_sgd: {sync_period: 0}", "local_sgd.sync_period"),
    ],
)
def test_bad_configurations(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        _config(tmp_path, text)


def test_numbers_as_yaml_reads_them(tmp_path):
    lr = "lr={base: 1e-2, warmup_epochs: 1, decay: {name: cosine, floor: 1e-3}}"
    found = rates(_config(tmp_path, "optimizer: {name: sgd, momentum: 9e-1}", lr), 8)
    assert found.recipe.arguments == {"floor": 0.001} and found.recipe.peak_lr == 0.01
    with pytest.raises(UsageError, match="cannot do with"):
        rates(_config(tmp_path, "", "lr={base: 0.1, warmup_epochs: 1, decay: {name: step, boundaries: 5}}"), 8)
    with pytest.raises(ConfigError, match="gradient_accumulation_steps"):
        rates(_config(tmp_path, "optimizer: {name: sgd, gradient_accumulation_steps: two}", lr), 8)


def test_rates_of_many_ranks(tmp_path):
    found = _config(tmp_path, "batch_size: 32\nepochs: 90", LR)
    assert [rates(found, n).global_batch for n in (1, 8, 64, 512)] == [32, 256, 2048, 16384]
    assert [rates(found, n).recipe.peak_lr for n in (8, 64)] == pytest.approx([0.1, 0.8])
    rows = table(found, [8, 64])
    assert rows[0][:4] == ["ranks", "batch per rank", "global batch", "scale"]
    assert rows[2] == ["64", "32", "2,048", "x 8", "0.1", "0.8", *rows[2][6:]]


def test_the_command_prints_and_draws(tmp_path):
    image = tmp_path / "rates.png"
    words = [sys.executable, "-m", "hvdkit", "config", "explain", "configs/large_batch_512.yaml"]
    done = subprocess.run(
        [*words, "--ranks", "1,2,16,512", "--plot", str(image)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +2 +32 +512 +x 16 ", done.stdout, re.M) and image.read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([*words, "--ranks", "1,x"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "1,8,64" in done.stderr
    words[-1] = "configs/digits.yaml"
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "has no `lr:`" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "k"), [("sgd, weight_decay: 0.01", 1), ("lars, weight_decay: 0.01", 1), ("adamw, weight_decay: 0.01", 4)]
)
def test_training_has_the_rates_that_are_explained(tmp_path, name, k):
    hvd.init()
    optimizer = f"{{name: {name}, gradient_accumulation_steps: {k if k > 1 else 'null'}}}"
    text = f"batch_size: 64\nepochs: 20\nlabel_smoothing: 0.1\nmodel: {{name: resnet}}\noptimizer: {optimizer}"
    found = _config(tmp_path, text, LR)
    model = train._compiled(found, (8, 8, 1), 10, steps_per_epoch=19)
    expected = rates(found, 1).recipe
    for step in (0, 40, 95, 200, 379):
        assert float(model.optimizer._learning_rate(step)) == pytest.approx(
            float(expected.rate(step // k * k / 19)), rel=1e-6
        )
    decays = [model.optimizer._use_weight_decay(v) for v in model.trainable_variables]
    assert decays == [len(v.shape) > 1 for v in model.trainable_variables]
    assert type(model.loss).__name__ == "SmoothSparseCategoricalCrossentropy"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optimizer: {name: sgd, learning_rate: 0.1}\nlr: {base: 0.1}", "both"),
        ("loss: mse\nlabel_smoothing: 0.1", "label_smoothing"),
        ("local_sgd: {sync_period: 4}\ncompression: fp16", "leave out `compression`"),
        ("optimizer: {name: lars, momentun: 0.1}", "momentun"),
    ],
)
def test_what_does_not_go_together(tmp_path, text, says):
    hvd.init()
    with pytest.raises(ConfigError, match=says):
        train._compiled(_config(tmp_path, text), (8, 8, 1), 10, steps_per_epoch=19)


HUGE = 2**63


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (f"epochs={HUGE}", "`epochs`: input should be less than 9007199254740992"),
        (f"epochs={'9' * 400}", "--set epochs: the value '999"),
        (f"batch_size={HUGE}", "`batch_size`: input should be less"),
        (f"batch_size={{global: {HUGE}}}", "`batch_size.global`: input should be less"),
        (f"lr.base_batch_size={HUGE}", "`lr.base_batch_size`"),
        ("lr.base=1e308", "`lr.base`: input should be less than"),
        ("lr.base=.inf", "`lr.base`"),
        ("lr.warmup_from=1e308", "`lr.warmup_from`"),
        ("lr.warmup_epochs=.nan", "`lr.warmup_epochs`"),
        ("lr.warmup_epochs=1e15", "The warm-up of 1e+15 epochs is not over"),
        ("lr.decay={name: polynomial, power: -5}", "The decay 'polynomial' with {'power': -5} goes from"),
        ("lr.decay={name: cosine, floor: .nan}", "The decay 'cosine' with {'floor': nan}"),
        (
            "optimizer.gradient_accumulation_steps=0",
            "must be a whole number of at least 1, not 0",
        ),
        ("optimizer.gradient_accumulation_steps=-1", "`optimizer`: gradient_accumulation_steps must be"),
        ("batch_size={global: 7}", "There is nothing to draw"),
        (f"optimizer.gradient_accumulation_steps={HUGE}", "gradient_accumulation_steps must be"),
    ],
)
def test_absurd_numbers(tmp_path, capsys, override, says):
    """One error, where it is the number's; without a warning of NumPy's beside it."""
    ended = _explained(tmp_path, override)
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("hvdkit: ") and says in err


@pytest.mark.parametrize("override", [f"epochs={2**53 - 1}", "epochs=6", "lr.base=1e-320", "lr.base_batch_size=1"])
def test_odd_numbers_that_mean_something(tmp_path, override):
    assert not _explained(tmp_path, override).value.code


def _explained(tmp_path, override):
    words = [f"{ROOT}/configs/large_batch_512.yaml", "--set", LR, "--set", override, "--plot", str(tmp_path / "x.png")]
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("error")
        main(["config", "explain", *words])
    return ended


@pytest.mark.parametrize("ranks", ["0", "-1", "1,", "", "1e3", "9" * 400, "9" * 5000, "1,1000000000", "x"])
def test_absurd_numbers_of_ranks(ranks, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["config", "explain", f"{ROOT}/configs/large_batch_512.yaml", f"--ranks={ranks}"])
    assert ended.value.code == 2
    assert "whole numbers from 1 to 999,999,999, such as 1,8,64" in capsys.readouterr().err
