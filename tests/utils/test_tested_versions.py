"""Versions of Keras and TensorFlow that were not tested are told when training begins."""

import pytest

import hvdkit as hvd
from hvdkit import session
from hvdkit.utils import tested_versions
from hvdkit.utils.log import get_logger


@pytest.mark.parametrize(
    ("name", "version", "word"),
    [
        ("Keras", "3.13.2", None),
        ("Keras", "3.13.2rc1", None),
        ("Keras", "3.15.1", None),
        ("Keras", "3.12.9", "older"),
        ("Keras", "3.16.0.dev2025", "newer"),
        ("Keras", "4.0", "newer"),
        ("Keras", "nightly", "cannot read"),
        ("TensorFlow", "2.16.0", None),
        ("TensorFlow", "2.21.1", None),
        ("TensorFlow", "2.15.1", "older"),
        ("TensorFlow", "2.22.0rc0", "newer"),
    ],
)
def test_what_is_said_of_a_version(name, version, word):
    said = tested_versions.warnings({name: version})
    assert bool(said) == (word is not None)
    for text in said:
        assert word in text and f"{name} {version}" in text and "pip install '" in text and "hvdkit doctor" in text


def test_init_says_it_once(monkeypatch, caplog):
    monkeypatch.setattr(session, "_installed", lambda: {"Keras": "3.99.0", "TensorFlow": "2.99.0"})
    monkeypatch.setattr(get_logger(), "propagate", True)
    session._warn_of_untested_versions.cache_clear()
    try:
        for _ in range(2):
            hvd.shutdown()
            hvd.init()
    finally:
        session._warn_of_untested_versions.cache_clear()
    records = {id(record): record for record in caplog.records}.values()  # another test may have left a handler
    said = [record.getMessage() for record in records if "is tested with" in record.getMessage()]
    assert [text.partition(" is ")[0] for text in said] == ["Keras 3.99.0", "TensorFlow 2.99.0"]


def test_init_says_nothing_of_versions_that_are_tested(caplog, monkeypatch):
    monkeypatch.setattr(get_logger(), "propagate", True)
    session._warn_of_untested_versions.cache_clear()
    hvd.shutdown()
    hvd.init()
    assert session._installed().keys() == {"Keras", "TensorFlow"}
    assert [record.getMessage() for record in caplog.records if "is tested with" in record.getMessage()] == []
