"""What Keras 2's layers, tensors and variables answered to, for Keras 3's."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from hvdkit.compat.deprecations import warn_once
from hvdkit.keras_internals import keras2

# An attribute of layers -> what of the layer it is the shape, the mask or the value of.
_SHAPES = {"input_shape": "input", "output_shape": "output"}


def patch_attributes(keras: Any) -> None:
    """Put them into Keras' classes."""
    _layers(keras)
    _tensors(keras)
    _variables(keras)
    _sequential(keras)


def _sequential(keras: Any) -> None:
    add = keras.Sequential.add

    @functools.wraps(add)
    def add_with_batch_size(self: Any, layer: Any, rebuild: bool = True) -> None:
        shape = getattr(layer, "batch_shape_of_keras_2", None)
        if shape is not None and not keras2.layers_so_far(self):
            add(self, keras.layers.InputLayer(batch_shape=shape), rebuild)
        add(self, layer, rebuild)

    def rebuild_by_input(rebuild_with: Callable) -> Callable:
        @functools.wraps(rebuild_with)
        def rebuild(self: Any) -> None:
            # Keras builds the model if its first layer has an `input_shape`, which only models have in Keras 3. A layer
            # that was called elsewhere has one here, which is not the shape of this model's input.
            layers = keras2.layers_so_far(self)
            has_none = type(layers[0]).input_shape is keras.layers.Layer.input_shape
            if len(layers) == 1 or (has_none and not isinstance(layers[0], keras.layers.InputLayer)):
                keras2.leave_unbuilt(self)
            else:
                rebuild_with(self)

        return rebuild

    keras.Sequential.add = add_with_batch_size
    keras2.around_sequential_rebuild(keras, rebuild_by_input)


def _warning_method(old: str, new: str, method: str) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        warn_once(old, new)
        return getattr(self, method)(*args, **kwargs)

    return call


def _layers(keras: Any) -> None:
    layer = keras.layers.Layer

    def shape_property(name: str, tensors: str) -> property:
        def get(self: Any) -> Any:
            value = getattr(self, tensors)  # AttributeError if the layer has not been called, as in Keras 2
            warn_once(f"layer.{name}", f"write layer.{tensors}.shape.")
            return _shapes_of(keras, value)

        return property(get)

    for name, tensors in _SHAPES.items():
        setattr(layer, name, shape_property(name, tensors))

    def getter_by_call(name: str, tensors: str, shape: bool) -> Any:
        def get(self: Any, node_index: int) -> Any:
            warn_once(f"layer.{name}()", f"write layer.{tensors}, where the layer was called once.")
            nodes = keras2.calls_of(self)
            if not 0 <= node_index < len(nodes):
                raise ValueError(f"The layer {self.name} was called {len(nodes)} times. Received: {node_index}.")
            node = nodes[node_index]
            value = node.input_tensors if tensors == "input" else node.outputs
            value = value[0] if len(value) == 1 else list(value)
            return _shapes_of(keras, value) if shape else value

        return get

    for tensors in ("input", "output"):
        setattr(layer, f"get_{tensors}_at", getter_by_call(f"get_{tensors}_at", tensors, shape=False))
        setattr(layer, f"get_{tensors}_shape_at", getter_by_call(f"get_{tensors}_shape_at", tensors, shape=True))


def _shapes_of(keras: Any, tensors: Any) -> Any:
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), tensors)


def _is_a_shape(other: Any) -> bool:
    import tensorflow as tf

    return isinstance(other, tuple | list | tf.TensorShape)


class _Shape(tuple):
    """A tuple that is also asked what a ``tf.TensorShape`` is."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _Shape(part) if isinstance(index, slice) else part

    def __add__(self, other: Any) -> Any:
        return _Shape((*self, *other)) if _is_a_shape(other) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return _Shape((*other, *self)) if _is_a_shape(other) else NotImplemented

    def as_list(self) -> list[int | None]:
        warn_once("tensor.shape.as_list()", "write list(tensor.shape).")
        return list(self)

    @property
    def rank(self) -> int:
        return len(self)

    ndims = rank

    def num_elements(self) -> int | None:
        return None if None in self else math.prod(self)


def _tensors(keras: Any) -> None:
    tensor = keras.KerasTensor
    shape = tensor.shape
    tensor.shape = property(lambda self: _Shape(shape.fget(self)), shape.fset)
    tensor.get_shape = lambda self: self.shape


def _variables(keras: Any) -> None:
    import tensorflow as tf

    variable = keras.Variable
    variable.ref = tf.Variable.ref
    variable.read_value = lambda self: tf.identity(self.value)
    variable.get_shape = lambda self: self.shape
    variable.eval = _warning_method("variable.eval()", "write variable.numpy().", "numpy")
