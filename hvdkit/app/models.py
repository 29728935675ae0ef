"""Small models for `hvdkit train`: one function each, registered below."""

from __future__ import annotations

from typing import Any

import keras

from hvdkit.layers import with_batch_norm, zero_last_gamma


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


def resnet(
    input_shape: tuple,
    classes: int,
    *,
    filters: int = 16,
    blocks: int = 2,
    zero_gamma: bool = True,
    batch_norm_momentum: float = 0.9,
    sync_batch_norm: bool = False,
) -> keras.Model:
    """A small residual network with batch norm, for small images: two stages of ``blocks`` blocks, then a mean."""

    def convolved(x: Any, width: int, size: int, strides: int) -> Any:
        x = keras.layers.Conv2D(width, size, strides=strides, padding="same", use_bias=False)(x)
        return keras.layers.BatchNormalization(momentum=batch_norm_momentum)(x)

    inputs = keras.Input(input_shape)
    x = keras.layers.ReLU()(convolved(inputs, filters, 3, 1))
    for stage in range(2):
        for block in range(blocks):
            width, strides = filters * 2**stage, 2 if stage and not block else 1
            branch = keras.layers.ReLU()(convolved(x, width, 3, strides))
            branch = convolved(branch, width, 3, 1)
            shortcut = x if x.shape[-1] == width and strides == 1 else convolved(x, width, 1, strides)
            x = keras.layers.ReLU()(keras.layers.Add()([shortcut, branch]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))
    if zero_gamma:
        zero_last_gamma(model)
    return with_batch_norm(model, synchronized=True) if sync_batch_norm else model
