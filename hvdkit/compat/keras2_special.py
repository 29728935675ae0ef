"""Arguments of Keras 2 that need more than another name: rules for ``keras2_arguments``."""

from __future__ import annotations

import functools
from typing import Any

from hvdkit.compat.deprecations import warn_once
from hvdkit.errors import UsageError
from hvdkit.keras_internals.attributes import own_reduction_state

_REDUCTIONS = ("auto", "none", "sum", "sum_over_batch_size")


def batch_input_shape(layer: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
    """``batch_input_shape=(batch, ...)``: the shape, and the batch size where it has one."""
    shape = tuple(arguments.pop(name))
    warn_once(f"layer({name}=)", f"put keras.Input(batch_shape={shape}) in front of the layer.")
    arguments["input_shape"] = shape[1:]
    if shape[0] is not None:
        layer.batch_shape_of_keras_2 = shape


def weights(layer: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
    """``weights=[...]``: the values that the layer's variables get as soon as there are any."""
    values, build = arguments.pop(name), layer.build
    if values is None:
        return
    warn_once(f"layer({name}=)", "call layer.set_weights(weights) when the layer is built, or initializer=.")

    @functools.wraps(build)
    def build_and_set(*args: Any, **kwargs: Any) -> Any:
        built = build(*args, **kwargs)
        layer.set_weights(values)
        return built

    layer.build = build_and_set


def period(callback: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
    """``ModelCheckpoint(period=n)``: every n-th epoch."""
    callback.period = arguments.pop(name)  # keras2_behaviour saves by it
    warn_once(
        f"{whose}({name}=)", 'write save_freq="epoch", or save_freq= with the number of batches between two saves.'
    )


def reduction(_: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
    """``Reduction.AUTO`` is the sum over the batch, divided by its size."""
    if arguments[name] == "auto":
        arguments[name] = "sum_over_batch_size"
        warn_once(f"{whose}({name}='auto')", 'write "sum_over_batch_size".')


def aggregate(optimizer: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
    """Whether gradients are still to be joined: a distributed optimizer always joins them."""
    ready = arguments.pop(name) is (name == "skip_gradients_aggregation")
    if ready and own_reduction_state(optimizer) is not None:
        raise UsageError(
            f"A distributed optimizer reduces the gradients it is given; {name}= says that they are reduced already.",
            fix="give reduced gradients to a plain optimizer, or leave the reduction to hvd.DistributedOptimizer.",
        )
    warn_once(f"{whose}({name}=)", "delete it.")


def aggregation(_: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
    """``tf.VariableAggregation`` by its name."""
    if hasattr(arguments[name], "name"):
        arguments[name] = arguments[name].name.lower()
        warn_once(f"{whose}({name}=)", f'write "{arguments[name]}".')


def grayscale(_: Any, arguments: dict[str, Any], name: str, whose: str) -> None:
    """``load_img(grayscale=True)``."""
    if arguments.pop(name):
        arguments["color_mode"] = "grayscale"
    warn_once(f"{whose}({name}=)", 'write color_mode="grayscale".')


def no_dtype(first: Any) -> bool:
    """Whether a metric's first argument is its name, as it was, and not its dtype."""
    import keras

    if not isinstance(first, str):
        return False
    try:
        keras.backend.standardize_dtype(first)
    except ValueError:
        return not first.startswith(("mixed_", "float8", "int8", "int4"))
    return False


def is_reduction(first: Any) -> bool:
    """Whether a loss' first argument is its reduction, as it was, and not its name."""
    return first in _REDUCTIONS if isinstance(first, str) else False
