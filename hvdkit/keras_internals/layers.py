"""What a Keras layer holds and was made from, by plain names, and batch normalization with its statistics under one."""

from __future__ import annotations

import itertools
from typing import Any

import keras


def flatten_layers(layer: Any) -> list:
    """The layer and all layers that Keras finds inside it."""
    return list(layer._flatten_layers())


def own_trainable_variables(layer: Any) -> list:
    """The variables that a layer itself made as trainable, whether it is frozen now or not."""
    return list(getattr(layer, "_trainable_variables", ()))


def call_nodes(model: Any) -> list:
    """The calls of layers that a Functional or Sequential model is made of; none of a model of another class.

    A node has its layer as ``operation``, and the nodes before it as ``parent_nodes``.
    """
    graph = getattr(model, "_functional", model)  # a Sequential has one inside
    return list(itertools.chain(*getattr(graph, "_nodes_by_depth", {}).values()))


class BatchNormalization(keras.layers.BatchNormalization):
    """``keras.layers.BatchNormalization`` with its statistics under a plain name."""

    def moments(self, inputs: Any, mask: Any) -> tuple:
        """Mean and variance per channel of a batch in training; to be overridden."""
        return super()._moments(inputs, mask)

    def _moments(self, inputs, mask):
        return self.moments(inputs, mask)
