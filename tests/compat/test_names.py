"""Horovod's names, arguments and defaults, compared with Horovod itself where it is installed."""

from __future__ import annotations

import inspect

import keras
import pytest

import hvdkit as hvd

NOT_OURS = {"elastic", "K", "keras", "tf", "version", "warnings", "inspect", "is_version_greater_equal_than"}
# Horovod's defaults that mean the same by another value: its own objects for an op, a compression, all ranks.
OBJECTS = {"op", "compression", "process_set"}
# What differs on purpose.
OTHERWISE = {
    ("broadcast", "root_rank"),  # a default where Horovod has none
    ("broadcast_global_variables", "root_rank"),
    ("BroadcastGlobalVariablesCallback", "root_rank"),
    ("allreduce", "average"),  # horovod.keras says True for the one that horovod.tensorflow.keras calls None
}


def _horovod():
    module = pytest.importorskip("horovod.tensorflow.keras", exc_type=ImportError)
    import horovod.keras
    import horovod.tensorflow

    return module, horovod.keras, horovod.tensorflow


def _functions():
    ours_from_tf = ("DistributedGradientTape", "PartialDistributedGradientTape", "ProcessSet")
    try:
        modules = _horovod()
    except pytest.skip.Exception:
        return
    for module in modules[:2]:
        for name, thing in vars(module).items():
            if not name.startswith("_") and name not in NOT_OURS and callable(thing):
                yield pytest.param(name, thing, id=f"{module.__name__}.{name}")
        for name, thing in vars(module.callbacks).items():
            if inspect.isclass(thing) and issubclass(thing, keras.callbacks.Callback):
                yield pytest.param(f"callbacks.{name}", thing, id=f"{module.__name__}.callbacks.{name}")
    for name in ours_from_tf:
        yield pytest.param(name, getattr(modules[2], name), id=name)


def _ours(name: str):
    thing = hvd
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize(("name", "theirs"), list(_functions()))
def test_arguments(name, theirs):
    ours = _ours(name)
    try:
        mine, original = (inspect.signature(f).parameters for f in (ours, theirs))
    except ValueError:
        return  # a class made in C
    wanted = [p for p in original.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"]
    if theirs.__module__.startswith("horovod.keras"):  # the older of the two: some arguments in another order
        got = [mine.get(p.name) for p in wanted]
        assert None not in got
    else:
        got = [p for p in mine.values() if p.name != "self"][: len(wanted)]
        assert [p.name for p in got] == [p.name for p in wanted]
    last = name.rpartition(".")[2]
    for a, b in zip(got, wanted, strict=True):
        if a.name not in OBJECTS and (last, a.name) not in OTHERWISE:
            assert a.default == b.default, a.name


def test_every_name_is_there():
    for module in _horovod()[:2]:
        public = {name for name in vars(module) if not name.startswith("_")} - NOT_OURS
        missing = [name for name in public if not hasattr(hvd, name)]
        assert not missing


def test_defaults_that_are_objects():
    parameters = inspect.signature(hvd.DistributedOptimizer).parameters
    assert parameters["op"].default is hvd.Average
    assert parameters["compression"].default is hvd.Compression.none
    assert parameters["process_set"].default is hvd.global_process_set
