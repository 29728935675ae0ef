"""Any text at all as a configuration: what it says, or one clear error that names the place; never a traceback."""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hvdkit as hvd
from hvdkit.app import config, strict_yaml
from hvdkit.cli import main
from hvdkit.errors import ConfigError

SHIPPED = Path(hvd.__file__).parent.parent / "configs" / "digits.yaml"
DEEP = f"model: {{name: cnn, a: {'[' * 5000}"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGE_BOMB = BOMB.replace("[x, x, x, x, x, x, x, x, x]", "{x: 1}").replace("[*", "{<<: [*").replace("]", "]}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: 2024-13-45", "`epochs`: input should be a valid integer"),
        ("seed: 1\nepochs: 0x_", "c.yaml, line 2, column 9: '0x_' is no value of the kind int"),
        ("epochs: !!int abc", "line 1, column 9: 'abc' is no value of the kind int"),
        ("epochs: !!bool maybe", "line 1, column 9: 'maybe' is no value of the kind bool"),
        ("epochs: !!int [1]", "line 1, column 9 is not YAML: expected a scalar node"),
        ("epochs: !!binary aGk=", "line 1, column 9: values of the kind 'binary' are not read"),
        ("save: !!timestamp yesterday", "line 1, column 7: values of the kind 'timestamp'"),
        ("save: !!python/object/apply:os.getcwd []", "line 1, column 7: values of the kind 'python/object"),
        (f"epochs: {'9' * 5000}", "line 1, column 9: a number of more than 100 characters"),
        (f"epochs: 0x{'f' * 90}", "line 1, column 9: an integer of more than 64 bits"),
        (f"epochs: {'1:' * 40}1", "line 1, column 9: an integer of more than 64 bits"),
        (r'save: "\ud800"', "line 1, column 7: '\\ud800' is no value of the kind str"),
        (DEEP, "more than 32 values inside of one another"),
        ("- " * 5000, "more than 32 values inside of one another"),
        ("model: &m {name: cnn, a: *m}", "line 1, column 26: the alias *m is part of what it stands for"),
        ("model: {name: cnn, a: &a [&b [*a]]}", "the alias *a is part of"),
        (BOMB, "more than 20,000 values, aliases written out"),
        (MERGE_BOMB, "more than 20,000 values, aliases written out"),
        ("epochs: 1\nepochs: 2", "line 2, column 1: the key 'epochs' stands there twice"),
        ("optimizer: {name: adam, learning_rate: 1.0, learning_rate: 0.1}", "line 1, column 45: the key"),
        ("model: {name: cnn, a: {1: a, true: b}}", "the key True stands there twice"),
        ("model: {name: cnn, a: {? [1] : 2}}", "is not YAML: found unhashable key"),
        ("epochs: {{a", "is not YAML: expected ',' or '}'"),
        ("epochs: *a", "is not YAML: found undefined alias 'a'"),
        ("epochs: 1\n---\nepochs: 2", "is not YAML: but found another document"),
        ("a: \x00", "is not YAML: unacceptable character #x0000"),
        (f"epochs: {'x' * 300_000}", "is larger than 256 KiB"),
        (f"epochs: {'x' * 1000}", "xx...xx"),
        ("1: 2", "`1`: keys should be strings"),
        ('"a\\nb\\e[31m": 2', r"unknown key `'a\nb\x1b[31m'`"),
        ("checkpoint: {every: 0}", "`checkpoint.every`: input should be greater than or equal to 1, or input"),
        ("checkpoint: {every: soon}", "`checkpoint.every`: input should be a valid integer"),
        ("checkpoint: {max_time: abc}", '`checkpoint.max_time`: must be seconds, or "3:50:00". Received: \'abc\'.'),
        ("checkpoint: {max_time: -1}", "`checkpoint.max_time`: must be seconds"),
        ("compression: {nam: fp16}", "the key `compression.name` is missing"),
        ("compression: [1]", "`compression`: input should be a valid string, or "),
        ("strategy: {name: 3}", "`strategy.name`: input should be a valid string. Received: 3."),
        ("lr: {base: 0.1, decay: {name: 2}}", "`lr.decay.name`: input should be a valid string"),
        ("batch_size: 0", "`batch_size`: input should be greater"),
        ("batch_size: {global: x}", "`batch_size.global`: input should be a valid integer"),
        ("metrics: [a, 2]", "`metrics.1`: input should be a valid string"),
    ],
)  # fmt: skip
def test_one_sentence_that_names_the_place(tmp_path, text, says):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        config.load_config(path)
    assert time.monotonic() - began < 5
    assert says in str(caught.value)
    assert "\n" not in caught.value.what
    assert len(caught.value.what) < 700


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("epochs=0x_", "--set epochs: the value '0x_', line 1, column 1: '0x_' is no value of the kind int"),
        ("epochs=[1", "--set epochs: the value '[1', line 1, column 3 is not YAML"),
        ("optimizer.a=&a [*a]", "--set optimizer.a: the value '&a [*a]', line 1, column 5: the alias *a"),
        (f"model.a={'[' * 3000}", "more than 32 values inside of one another"),
        (f"model.{'a.' * 3000}b=1", "--set takes key=value"),
        ("checkpoint={every: 1, every: 2}", "the key 'every' stands there twice"),
        ("checkpoint.max_time=abc", "`checkpoint.max_time`: must be seconds"),
        (f"epochs={'9' * 5000}", "a number of more than 100 characters"),
        ("=1", "--set takes key=value"),
        ("a..b=1", "--set takes key=value"),
        ("launch.launcher=srun", "`launch.launcher`: Unknown launcher 'srun'. Known: auto, horovodrun, mpirun."),
        ("launch.launcher=mpirum", "Known: auto, horovodrun, mpirun.\n  What to do: did you mean 'mpirun'?"),
        ("engine=foo", "`engine`: Unknown engine 'foo'. Known: auto, mpi, horovod."),
        ("engine=Auto", "Known: auto, mpi, horovod.\n  What to do: did you mean 'auto'?"),
    ],
)
def test_overrides(override, says):
    with pytest.raises(ConfigError) as caught:
        config.load_config(SHIPPED, (override,))
    assert says in str(caught.value)
    assert "\n" not in caught.value.what
    assert len(caught.value.what) < 700


def test_what_is_fine_stays_fine(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "\ufeffmodel: &m {name: cnn, filters: 4, when: 2024-13-45, is: =}\n"
        "optimizer: {<<: *m, name: sgd, steps: {1: 0.5, 2: ['1e-3', ~, yes, 0x1F]}}\n"
        "checkpoint: {max_time: 3:50:00}\n"
    )
    loaded = config.load_config(path, ("model.filters=5", "checkpoint.every=10"))
    assert loaded.model.arguments() == {"filters": 5, "when": "2024-13-45", "is": "="}
    # What an alias stands for is a value of its own, which --set has not changed.
    assert loaded.optimizer.arguments()["filters"] == 4 and loaded.optimizer.name == "sgd"
    assert loaded.optimizer.arguments()["steps"] == {1: 0.5, 2: ["1e-3", None, True, 31]}
    assert loaded.checkpoint.max_time == 3 * 3600 + 50 * 60


def test_what_is_no_file(tmp_path):
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=r"cannot be read|is larger than"):
            config.load_config(path)


PIECES = st.sampled_from(
    [
        *(
            "epochs",
            "optimizer",
            "name",
            "checkpoint",
            "every",
            "batch_size",
            "global",
            "lr",
            "base",
            "model",
            "a",
            "1",
        ),
        *(
            ": ",
            ":",
            "\n",
            "\n  ",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "? ",
            "| ",
            "> ",
            "'",
            '"',
            "#",
            "&a ",
            "*a",
            "<<: ",
        ),
        *("!", "!x ", "!!int ", "!!float ", "!!bool ", "!!null ", "!!set ", "!!omap ", "!!binary ", "!!str ", "!!map "),
        *("2024-13-45", "0x_", "0b", "0o9", "1_0", "1:2", "1e999", ".inf", ".nan", "~", "true", "=", "\\ud800", "\\"),
        *("\t", "---", "...", "\x00", "\x1b", "\x85", "\u2028", "\ufeff", "\ud800", "%YAML 9.9\n", "%TAG", "9" * 4400),
    ]
)
PIECED = st.lists(PIECES, max_size=30).map("".join)
BEGUN = st.tuples(st.sampled_from(["epochs: ", "model: {name: "]), PIECED).map("".join)
TEXTS = st.one_of(st.text(max_size=60), PIECED, BEGUN)
BYTES = st.one_of(st.binary(max_size=200), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
SHIPPED_BYTES = SHIPPED.read_bytes()


def said(*words: str) -> tuple[int, str]:
    """The exit code of the command line, and what stands on its standard error."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(list(words))
        except SystemExit as end:
            code = end.code or 0
    assert code or yaml.safe_load(out.getvalue())
    return code, err.getvalue()


def is_one_error(code: int, err: str) -> bool:
    lines = [line for line in err.splitlines() if not line.startswith("  What to do: ")]
    return code == 0 or (code == 1 and len(lines) == 1 and lines[0].startswith("hvdkit: "))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("text") / "c.yaml"


@pytest.fixture(scope="module", autouse=True)
def no_training_room():
    """Without what needs TensorFlow: whether names exist is another test's question."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hvdkit.app.train.check_config", lambda *_: None)
        yield


@settings(max_examples=300, deadline=None)
@given(data=BYTES)
@example(data=BOMB.encode())
@example(data=b"\xff\xfe")
def test_any_bytes_in_a_file(path, data):
    path.write_bytes(data)
    assert is_one_error(*said("train", str(path), "--dry-run"))


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(SHIPPED_BYTES)), length=st.integers(0, 40), data=BYTES)
def test_any_bytes_in_the_middle_of_a_good_file(path, at, length, data):
    path.write_bytes(SHIPPED_BYTES[:at] + data + SHIPPED_BYTES[at + length :])
    assert is_one_error(*said("train", str(path), "--dry-run"))


KNOWN = ["epochs", "optimizer.name", "model.a", "model.a.b", "checkpoint", "checkpoint.every", "lr", "save"]
KEYS = st.one_of(st.sampled_from(KNOWN), st.text(max_size=20))


@settings(max_examples=300, deadline=None)
@given(key=KEYS, value=TEXTS)
def test_any_text_in_an_override(key, value):
    # As an argument comes: without zeros, and bytes that are not UTF-8 as lone surrogates.
    word = f"{key}={value}".replace("\x00", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    assert is_one_error(*said("train", str(SHIPPED), "--dry-run", f"--set={word}"))


TEXT = st.text(st.characters(codec="utf-8"))
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXT
LISTS = lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3)


@given(value=st.recursive(LEAVES, LISTS, max_leaves=10))
def test_what_is_written_is_what_is_read(value):
    assert strict_yaml.read_text(yaml.safe_dump(value), "The text") == value


@pytest.mark.parametrize("what", ["data.name", "model.name", "strategy"])
def test_a_name_of_nothing_is_refused_before_any_rank_starts(tmp_path, what):
    """By the launching process, which imports no TensorFlow; the user's own names it does not know."""
    path = tmp_path / "c.yaml"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=rf"c\.yaml: `{what}`: Unknown .* 'nothing'\. Known: "):
        config.load_config(path, (f"{what}=nothing",))
    config.load_config(path, (f"{what}='mine:nothing'",))


def test_launchers_that_start_ranks_can_be_chosen():
    for name in ("auto", "horovodrun", "mpirun"):
        assert config.load_config(SHIPPED, (f"launch.launcher={name}",)).launch.launcher == name


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1.0e1", 10.0), (".5e1", 5.0), ("-1E+2", -100.0), ("1_0e1", 100.0), ("0x1e", 30), ("1e", "1e")],
)
def test_numbers_as_everybody_writes_them(text, value):
    found = strict_yaml.read_text(f"{{rate: {text}, list: [{text}]}}", "it")
    assert found == {"rate": value, "list": [value]} and type(found["rate"]) is type(value)


def test_counts_and_sections_as_people_write_them(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 1e1\nbatch_size: 64\nlaunch:\n  # np: 4\ncheckpoint:\nlr:\nmetrics: [acc]\n")
    settings = config.load_config(path, ("launch.np=2",))
    assert (settings.epochs, settings.launch.np, settings.checkpoint.dir, settings.lr) == (10, 2, None, None)
    path.write_text("epochs: 010\n")
    with pytest.raises(ConfigError, match="line 1, column 9: 010 begins with a zero, by which YAML means an octal"):
        config.load_config(path)
    path.write_bytes(b"a: " + "ü".encode() * 200_000)
    with pytest.raises(ConfigError, match="is larger than 256 KiB"):
        config.load_config(path)
