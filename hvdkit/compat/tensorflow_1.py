"""TensorFlow 1's functions that only prepare a session: each has no effect but one warning; the rest is refused."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from hvdkit.compat.deprecations import GoneError, warn_once
from hvdkit.errors import UsageError

PINNED = "delete it: hvd.init() gives this rank its GPU and lets its memory grow. There are no sessions any more."
_EAGER = "delete it: TensorFlow 2 is eager."
GONE = {
    "get_default_graph": "delete it: there is no graph outside tf.function.",
    "global_variables_initializer": "delete it: variables have their values from the beginning.",
    "placeholder": "keras.Input(shape), or a function's argument.",
}


class Session:
    """Stands for a session that only carried a configuration to Keras; it runs nothing."""

    def __init__(self, target: str = "", graph: Any = None, config: Any = None):
        self.config = config

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """There is nothing to close."""

    def run(self, *_: Any, **__: Any) -> None:
        """Refused.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "There are no sessions in TensorFlow 2: session.run cannot be called.",
            fix="call model.fit, or a tf.function; a tensor's value is tensor.numpy().",
        )


def no_effect(*_: Any, **__: Any) -> None:
    """What ``K.set_session`` and ``tf.enable_eager_execution`` do."""


def _version_1(name: str) -> Callable[[], Any]:
    return lambda: getattr(importlib.import_module("tensorflow").compat.v1, name)


# A name in `tf` -> its replacement, and the warning.
KEPT: dict[str, tuple[Callable[[], Any], str]] = {
    "ConfigProto": (_version_1("ConfigProto"), PINNED),
    "GPUOptions": (_version_1("GPUOptions"), PINNED),
    "Session": (lambda: Session, PINNED),
    "InteractiveSession": (lambda: Session, PINNED),
    "enable_eager_execution": (lambda: no_effect, _EAGER),
    "set_random_seed": (
        lambda: importlib.import_module("tensorflow").random.set_seed,
        "write hvd.set_seed(seed), or tf.random.set_seed(seed).",
    ),
}


def lookup_tensorflow_1(name: str) -> Any:
    """The replacement of ``tf.NAME``, or None.

    Raises:
        GoneError: it is TensorFlow 1's, and has no replacement.
    """
    if name in GONE:
        raise GoneError(f"tf.{name} is TensorFlow 1's.", fix=GONE[name])
    if name not in KEPT:
        return None
    made, now = KEPT[name]
    warn_once(f"tf.{name}", now)
    return made()
