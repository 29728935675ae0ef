"""Handwritten digits: a Keras script, and the four lines that put it on several ranks (marked with #1 to #4).

Run it with:  horovodrun -np 2 python scripts/examples/digits.py
"""

import time

import keras
import numpy as np
from sklearn.datasets import load_digits

import hvdkit as hvd

hvd.init()  # 1 enter the world; the same model on every rank
hvd.set_seed(1)

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
x, y = (digits.images[order, :, :, None] / 16).astype("float32"), digits.target[order]
x_test, y_test = x[:599], y[:599]
train = hvd.data.shard(x[599:], y[599:], batch_size=32)  # 2 each rank its part of the data

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
        keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(2e-3))  # 3 gradients averaged over the ranks
model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])

epochs = 15
begin = time.perf_counter()
model.fit(train, epochs=epochs, callbacks=hvd.callbacks.defaults())  # 4 weights of rank 0, mean metrics
seconds = time.perf_counter() - begin

_, accuracy = model.evaluate(x_test, y_test, verbose=0)
digest = hvd.assert_equal_weights(model)
if hvd.rank() == 0:
    rate = (len(x) - 599) * epochs / seconds
    print(
        f"test accuracy {accuracy:.3f} on {hvd.size()} ranks, {rate:,.0f} samples/s, "
        f"weights identical on all ranks (sha256 {digest[:16]})"
    )
