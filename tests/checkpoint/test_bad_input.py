"""Checkpoints that are whole and make no sense, steps that are saved again, odd arguments."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import hvdkit as hvd
from hvdkit.checkpoint.storage.format import MANIFEST, manifest_bytes
from hvdkit.checkpoint.storage.lock import DirectoryLock
from hvdkit.checkpoint.storage.parts import write_part
from hvdkit.checkpoint.storage.store import Store
from hvdkit.utils.log import get_logger

pytestmark = pytest.mark.usefixtures("forked_programs")

CHECKPOINT = hvd.callbacks.CheckpointCallback


def _model(kernel: float = 0.0) -> keras.Model:
    hvd.init()
    dense = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(kernel))
    model = keras.Sequential([keras.Input((2,)), dense])
    model.compile(hvd.DistributedOptimizer("sgd"), "mse")
    return model


def _kernel(model: keras.Model) -> float:
    return float(np.asarray(model.layers[0].kernel)[0, 0])


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


def test_a_step_saved_again_is_what_was_saved_last(tmp_path, log):
    for value in (1.0, 7.0):
        for step in (1, 2, 3):
            hvd.checkpoint.save(_model(value), tmp_path, step=step)
    model = _model()
    assert hvd.checkpoint.restore(model, tmp_path).step == 3 and _kernel(model) == 7.0
    assert hvd.checkpoint.restore(model, tmp_path, step=2).step == 2
    model.layers[0].kernel.assign(np.full((2, 1), 9.0))
    log.clear()
    hvd.checkpoint.save(model, tmp_path, step=3)
    assert "newer" not in log.text
    hvd.checkpoint.restore(model, tmp_path)
    assert _kernel(model) == 9.0


def test_a_step_before_those_of_another_training_is_saved_and_a_warning_says_which_is_restored(tmp_path, log):
    for step in (10, 11, 12):
        hvd.checkpoint.save(_model(1.0), tmp_path, step=step)
    hvd.checkpoint.save(_model(7.0), tmp_path, step=1)
    assert f"Saving step 1 in {tmp_path}, which has newer checkpoints, up to step 12" in log.text
    model = _model()
    assert hvd.checkpoint.restore(model, tmp_path, step=1).step == 1 and _kernel(model) == 7.0


def _rewrite(path, change) -> None:
    """Another state in a checkpoint, written as hvdkit writes it."""
    content = json.loads((path / MANIFEST).read_bytes())
    change(content["state"])
    fields = {k: v for k, v in content.items() if k not in ("format", "schema_version", "sha256")}
    (path / MANIFEST).write_bytes(manifest_bytes(fields))


def _rewrite_part(path, name: str, value) -> None:
    """Another tensor in the part of rank 0, likewise; None takes it out."""
    from hvdkit.checkpoint.storage.reader import Checkpoint

    checkpoint = Checkpoint(path)
    arrays = {n: np.array(checkpoint.get("rank-00000", n)) for n in checkpoint.names("rank-00000")}
    arrays[name] = value
    written = write_part(path / "rank-00000.safetensors", {n: a for n, a in arrays.items() if a is not None})
    content = json.loads((path / MANIFEST).read_bytes())
    content["parts"]["rank-00000"].update(vars(written))
    fields = {k: v for k, v in content.items() if k not in ("format", "schema_version", "sha256")}
    (path / MANIFEST).write_bytes(manifest_bytes(fields))


def _rewrite_state(path, group: str, text: bytes) -> None:
    _rewrite_part(path, f"{group}/state", np.frombuffer(text, np.uint8))


def _with_value(value: bytes, more: bytes = b"") -> bytes:
    return b'[{"class": "x", "attributes": {"a": %s}%s}]' % (value, more)


SENSELESS = {
    "trained": lambda path: _rewrite(path, lambda state: state.update(trained="all")),
    "trained numbers": lambda path: _rewrite(path, lambda state: state.update(trained=[["0"]])),
    "schedules": lambda path: _rewrite(path, lambda state: state.update(schedules=3)),
    "place": lambda path: _rewrite(path, lambda state: state.update(place="here")),
    "passed": lambda path: _rewrite(path, lambda state: state.update(place={"passed": -1})),
    "rates": lambda path: _rewrite(path, lambda state: state.update(rates={"before": ["fast"]})),
    "metrics": lambda path: _rewrite(path, lambda state: state.update(metrics=[1])),
    "stopped": lambda path: _rewrite(path, lambda state: state.update(stopped="no")),
    "python's numbers": lambda path: _rewrite_part(path, "random/python", np.arange(3, dtype="uint64")),
    "numpy's numbers": lambda path: _rewrite_part(path, "random/numpy", np.arange(3, dtype="uint32")),
    "numpy's place": lambda path: _rewrite_part(path, "random/numpy_position", None),
    "keras' numbers": lambda path: _rewrite_part(path, "random/keras", np.arange(3, dtype="uint32")),
    "callbacks": lambda path: _rewrite_state(path, "callbacks", b"[{]"),
    "a callback": lambda path: _rewrite_state(path, "callbacks", b'["x"]'),
    "a callback's value": lambda path: _rewrite_state(path, "callbacks", _with_value(b'{"array": 3}')),
    "a value of no number": lambda path: _rewrite_state(path, "callbacks", _with_value(b'{"array": null}')),
    "a value of a number below 0": lambda path: _rewrite_state(path, "callbacks", _with_value(b'{"array": -1}')),
    "what is attached": lambda path: _rewrite_state(path, "attached", b'[{"class": "schedules"}]'),
    "an attached value": lambda path: _rewrite_state(path, "attached", _with_value(b'{"scalar": null}')),
    "an attached kind": lambda path: _rewrite_state(path, "attached", _with_value(b"1", b', "kinds": {"a": "x"}')),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    x = np.ones((8, 2), "float32")
    stopping = keras.callbacks.EarlyStopping("loss", patience=9)
    _model(1.0).fit(x, x[:, :1], batch_size=4, epochs=2, verbose=0, callbacks=[CHECKPOINT(directory, 2), stopping])
    return directory


@pytest.mark.parametrize("what", SENSELESS)
def test_what_makes_no_sense_is_left_out_and_an_older_one_taken(saved, tmp_path, log, what):
    shutil.copytree(saved, tmp_path / "runs")
    store = Store(tmp_path / "runs")
    SENSELESS[what](store.path(4))
    store.verify(4)  # every byte is what was written
    assert hvd.checkpoint.restore(_model(), tmp_path / "runs").step == 2
    assert "The checkpoint of step 4 is skipped" in log.text and "is not valid" in log.text
    with pytest.raises(hvd.errors.HvdkitError, match="is not valid"):
        hvd.checkpoint.restore(_model(), tmp_path / "runs", step=4)
    if what == "trained":  # a training saves its step 4 again: it is not kept for its checksums
        x = np.ones((8, 2), "float32")
        _model().fit(x, x[:, :1], batch_size=4, epochs=2, verbose=0, callbacks=[CHECKPOINT(tmp_path / "runs", 2)])
        assert hvd.checkpoint.restore(_model(), tmp_path / "runs").step == 4


def test_metadata_of_a_loop_of_ones_own_are_its_own(tmp_path):
    """Also what an older hvdkit has let pass under a name of the callback's."""
    hvd.checkpoint.save(_model(1.0), tmp_path, step=2, metadata={"city": "Lausanne", "metrics": {"loss": 0.5}})
    _rewrite(Store(tmp_path).path(2), lambda state: state.update(place="Lausanne", metrics=[1]))
    restored = hvd.checkpoint.restore(_model(), tmp_path)
    assert restored.step == 2 and restored.metadata["city"] == restored.metadata["place"] == "Lausanne"
    x = np.ones((8, 2), "float32")
    model = _model()
    model.fit(x, x[:, :1], batch_size=4, epochs=1, verbose=0, callbacks=[CHECKPOINT(tmp_path, 2)])
    assert Store(tmp_path).steps() == [4, 2]


def test_names_that_have_become_others_work_and_say_so(tmp_path):
    with pytest.warns(
        DeprecationWarning, match=r"`facts` of save is deprecated .* removed in hvdkit \d.*: use `metadata`"
    ):
        hvd.checkpoint.save(_model(1.0), tmp_path, step=2, facts={"city": "Lausanne"})
    with pytest.warns(DeprecationWarning, match=r"Restored.facts is deprecated .* use Restored.metadata"):
        assert hvd.checkpoint.restore(_model(), tmp_path).facts["city"] == "Lausanne"
    with pytest.warns(DeprecationWarning, match=r"Keep is deprecated .* use hvd.checkpoint.RetentionPolicy"):
        assert hvd.checkpoint.Keep is hvd.checkpoint.RetentionPolicy
    with pytest.warns(DeprecationWarning, match=r"RetentionPolicy.of is deprecated .* use RetentionPolicy.parse"):
        assert hvd.checkpoint.RetentionPolicy.of(5) == hvd.checkpoint.RetentionPolicy(last=5)
    with pytest.raises(hvd.errors.UsageError, match="`facts` is the old name of `metadata`: pass one of them"):
        hvd.checkpoint.save(_model(1.0), tmp_path, step=3, facts={"a": 1}, metadata={"b": 2})
    with pytest.warns(DeprecationWarning, match=r"Store.draft is deprecated .* use Store.writer"):
        assert type(Store(tmp_path).draft(3, "a")).__name__ == "CheckpointWriter"


def test_where_none_is_whole_a_line_says_that_training_begins_anew(tmp_path, log):
    for step in (1, 2):
        hvd.checkpoint.save(_model(1.0), tmp_path, step=step)
        (tmp_path / f"step-{step:09d}" / MANIFEST).write_bytes(b"{}")
    assert hvd.checkpoint.restore(_model(), tmp_path) is None
    assert (
        f"None of the 2 checkpoints in {tmp_path} can be restored: the training starts from the beginning." in log.text
    )


ODD_OWNERS = {
    "no json": b"{",
    "a list": b"[]",
    "no names": b"{}",
    "a time without a name": json.dumps({"since": 10**30, "pid": 1, "host": "a"}).encode(),
    "a large number": json.dumps({"pid": 10**30, "place": "x", "started": 0}).encode(),
    "other kinds": json.dumps({"pid": [], "started": {}, "job": {}, "since": "x", "place": 3}).encode(),
    "not text": b"\xff\xfe",
    "long": b"[" * 2**16,
}


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("what", [*ODD_OWNERS, "a directory", "a link"])
def test_an_owner_that_makes_no_sense_blocks_nobody_for_ever(tmp_path, monkeypatch, what, locks):
    monkeypatch.setattr("hvdkit.checkpoint.storage.lock._has_locks", lambda path: locks)
    file = tmp_path / ".owner.json"
    if what == "a directory":
        (file / "x").mkdir(parents=True)
    elif what == "a link":
        file.symlink_to(tmp_path / "nowhere")
    else:
        file.write_bytes(ODD_OWNERS[what])
    if what != "a link":
        for when in (time.time() - 4000, time.time() + 10**6):  # long ago, or in times to come
            os.utime(file, (when, when))
            with DirectoryLock(tmp_path):
                assert json.loads(file.read_bytes())["pid"] == os.getpid()
            file.write_bytes(ODD_OWNERS.get(what, b"{}"))
    else:
        with DirectoryLock(tmp_path):
            assert json.loads(file.read_bytes())["pid"] == os.getpid()
        assert not (tmp_path / "nowhere").exists()


ODD_ARGUMENTS = {
    "no directory": ({"directory": ""}, "A directory of checkpoints must be a path. Received: ''"),
    "None": ({"directory": None}, "must be a path. Received: None"),
    "a number": ({"directory": 3}, "must be a path. Received: 3"),
    "every": ({"every": 2.5}, "`every` must be"),
    "every as text": ({"every": "5"}, "`every` must be"),
    "every as bool": ({"every": True}, "`every` must be"),
    "keep as text": ({"keep": "3"}, "`keep` must be a whole number or hvd.checkpoint.RetentionPolicy"),
    "keep as bool": ({"keep": True}, "`keep` must be"),
    "keep below 0": ({"keep": -1}, "at least 0"),
    "background": ({"background": "no"}, "`background` must be True or False"),
    "resume": ({"resume": True}, "`resume` must be"),
    "max_time": ({"max_time": "abc"}, "`max_time` must be"),
    "max_time nan": ({"max_time": float("nan")}, "`max_time` must be"),
    "max_time list": ({"max_time": [1]}, "`max_time` must be"),
    "with_callbacks": ({"with_callbacks": keras.callbacks.History()}, "`with_callbacks` must be a list"),
}


@pytest.mark.parametrize("what", ODD_ARGUMENTS)
def test_odd_arguments_are_refused_by_name(tmp_path, what):
    arguments, message = ODD_ARGUMENTS[what]
    with pytest.raises(hvd.errors.UsageError, match=message):
        CHECKPOINT(**{"directory": tmp_path, **arguments})


def test_odd_arguments_of_save_are_refused_by_name(tmp_path):
    for metadata in ({"place": "Lausanne"}, {"trained": None}, {"model": "resnet50"}, {"versions": {"data": "2"}}, [1]):
        with pytest.raises(hvd.errors.UsageError, match=r"`metadata` (has another use for|must be a dictionary)"):
            hvd.checkpoint.save(_model(), tmp_path, step=1, metadata=metadata)
    with pytest.raises(hvd.errors.UsageError, match="must be a path"):
        hvd.checkpoint.save(_model(), "", step=1)
    with pytest.raises(hvd.errors.UsageError, match="must be a path"):
        hvd.checkpoint.restore(_model(), "")
    assert os.listdir(tmp_path) == []


def test_a_module_that_is_not_there(saved, tmp_path):
    command = [sys.executable, "-m", "hvdkit", "checkpoint", "export", str(saved), str(tmp_path / "m.keras")]
    for module in ("no.mod", "", "..x"):
        done = subprocess.run([*command, "--import", module], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"--import {module}: it cannot be imported" in done.stderr
