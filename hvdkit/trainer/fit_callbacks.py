"""The callbacks of one ``fit``: those that were given, and what hvdkit puts beside them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


def callbacks_of_fit(arguments: dict[str, Any]) -> list:
    """The callbacks among the arguments of ``fit``, as the list that ``fit`` will go through; it may be changed."""
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks.callbacks
    if not isinstance(callbacks, list) or any(isinstance(c, list | tuple) for c in callbacks):
        arguments["callbacks"] = list(keras.tree.flatten(callbacks)) if callbacks else []
    return arguments["callbacks"]


def add_callback(
    model: keras.Model, arguments: dict[str, Any], callback: keras.callbacks.Callback, *, first: bool
) -> None:
    """Put a callback before all others or after them."""
    given, known = arguments.get("callbacks"), callbacks_of_fit(arguments)
    known.insert(0 if first else len(known), callback)
    if isinstance(given, keras.callbacks.CallbackList):  # it has handed out model and parameters already
        callback.set_params(given.params or {})
        callback.set_model(model)


@contextlib.contextmanager
def user_list_unchanged(arguments: dict[str, Any]) -> Iterator[None]:
    """Inside, callbacks may be added; the user's own list, which may be given to another ``fit``, stays as it was."""
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, list):
        arguments["callbacks"] = list(callbacks)
    before = list(callbacks.callbacks) if isinstance(callbacks, keras.callbacks.CallbackList) else None
    try:
        yield
    finally:
        if before is not None:
            callbacks.callbacks[:] = before


def insert_leaders(model: keras.Model, arguments: dict[str, Any]) -> None:
    """Put first what has to come before all callbacks, wherever the callback that needs it stands.

    A callback says so by a method ``leader``: it is given all callbacks of this ``fit``, and returns a callback.
    """
    known = callbacks_of_fit(arguments)
    for callback in [c for c in known if hasattr(c, "leader")]:
        add_callback(model, arguments, callback.leader(known), first=True)
