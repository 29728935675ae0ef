"""Small models for `hvdkit train`: one function each, registered below."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.registry import Registry

MODELS = Registry("model", {"cnn": "hvdkit.models:cnn", "mlp": "hvdkit.models:mlp"})


def cnn(input_shape: tuple, classes: int, filters: int = 32, dense: int = 128, dropout: float = 0.2) -> keras.Model:
    """Two convolutions, a pool and a dense layer, for small images."""
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Conv2D(filters, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(2 * filters, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(dense, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def mlp(input_shape: tuple, classes: int, units: Any = (128, 64), dropout: float = 0.0) -> keras.Model:
    """Dense layers with relu, for anything that can be flattened."""
    layers: list = [keras.Input(input_shape), keras.layers.Flatten()]
    for width in units:
        layers.append(keras.layers.Dense(width, activation="relu"))
        if dropout:
            layers.append(keras.layers.Dropout(dropout))
    return keras.Sequential([*layers, keras.layers.Dense(classes, activation="softmax")])
