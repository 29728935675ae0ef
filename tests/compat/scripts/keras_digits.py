"""Digits in the style of Horovod's first Keras example."""

import horovod.keras as hvd
import keras
import numpy as np
from sklearn.datasets import load_digits

# Horovod: initialize Horovod.
hvd.init()

batch_size = 32
num_classes = 10

# The data: each worker has every hvd.size()-th image.
digits = load_digits()
x = (digits.images[..., np.newaxis] / 16.0).astype("float32")
y = keras.utils.to_categorical(digits.target, num_classes)
x_test, y_test = x[:357], y[:357]
x_train, y_train = x[357 + hvd.rank() :: hvd.size()], y[357 + hvd.rank() :: hvd.size()]

model = keras.models.Sequential()
model.add(keras.layers.Input((8, 8, 1)))
model.add(keras.layers.Conv2D(16, kernel_size=(3, 3), activation="relu"))
model.add(keras.layers.Flatten())
model.add(keras.layers.Dropout(0.1))
model.add(keras.layers.Dense(64, activation="relu"))
model.add(keras.layers.Dense(num_classes, activation="softmax"))

# Horovod: adjust the learning rate to the number of workers.
opt = keras.optimizers.Adadelta(1.0 * hvd.size())

# Horovod: add the distributed optimizer.
opt = hvd.DistributedOptimizer(opt)

model.compile(loss=keras.losses.categorical_crossentropy, optimizer=opt, metrics=["accuracy"])

callbacks = [
    # Horovod: everybody starts from worker 0's weights.
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
]

# Horovod: save checkpoints on worker 0 only.
if hvd.rank() == 0:
    callbacks.append(keras.callbacks.ModelCheckpoint("./checkpoint-{epoch}.keras"))

model.fit(x_train, y_train, batch_size=batch_size, callbacks=callbacks, epochs=3, verbose=1 if hvd.rank() == 0 else 0)
score = model.evaluate(x_test, y_test, verbose=0)
print("weights of rank %d: %s" % (hvd.rank(), [float(w.sum()).hex() for w in model.get_weights()]))
if hvd.rank() == 0:
    print(f"Test accuracy: {score[1]:.3f}")
