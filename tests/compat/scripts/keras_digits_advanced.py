"""Digits in the style of Horovod's advanced Keras example: warm-up, schedule, averaged metrics, validation."""

import argparse

import horovod.keras as hvd
import keras
import numpy as np
from sklearn.datasets import load_digits

parser = argparse.ArgumentParser(description="Digits")
parser.add_argument("--batch-size", type=int, default=16, help="input batch size for training")
parser.add_argument("--epochs", type=int, default=3, help="number of epochs to train")
parser.add_argument("--lr", type=float, default=0.05, help="learning rate for a single worker")
args = parser.parse_args()

# Horovod: initialize Horovod.
hvd.init()

digits = load_digits()
x = (digits.images[..., np.newaxis] / 16.0).astype("float32")
y = digits.target
x_test, y_test = x[:357], y[:357]
x_train, y_train = x[357:], y[357:]
train_batches = len(x_train) // args.batch_size
test_batches = len(x_test) // args.batch_size


def batches(x, y):
    """Random batches for ever, other ones on each worker."""
    rng = np.random.default_rng(hvd.rank())
    while True:
        picked = rng.choice(len(x), args.batch_size)
        yield x[picked], y[picked]


model = keras.Sequential(
    [
        keras.layers.Input((8, 8, 1)),
        keras.layers.Conv2D(16, (3, 3)),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.Activation("relu"),
        keras.layers.MaxPooling2D((2, 2)),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)

# Horovod: adjust the learning rate to the number of workers.
scaled_lr = args.lr * hvd.size()
opt = hvd.DistributedOptimizer(keras.optimizers.SGD(scaled_lr, momentum=0.9))
model.compile(loss="sparse_categorical_crossentropy", optimizer=opt, metrics=["accuracy"])


class Rates(keras.callbacks.Callback):
    """The learning rate at the end of each epoch."""

    seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


callbacks = [
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    # Horovod: average metrics among workers; before callbacks that look at metrics.
    hvd.callbacks.MetricAverageCallback(),
    # Horovod: from lr to lr * hvd.size() in the first epoch, and a tenth of that from the third on.
    hvd.callbacks.LearningRateWarmupCallback(initial_lr=scaled_lr, warmup_epochs=1, verbose=1),
    hvd.callbacks.LearningRateScheduleCallback(initial_lr=scaled_lr, multiplier=1.0, start_epoch=1, end_epoch=2),
    hvd.callbacks.LearningRateScheduleCallback(initial_lr=scaled_lr, multiplier=lambda epoch: 0.1, start_epoch=2),
    Rates(),
]

history = model.fit(
    batches(x_train, y_train),
    steps_per_epoch=train_batches // hvd.size(),
    callbacks=callbacks,
    epochs=args.epochs,
    verbose=2 if hvd.rank() == 0 else 0,
    validation_data=batches(x_test, y_test),
    validation_steps=2 * test_batches // hvd.size(),
)

score = model.evaluate(x_test, y_test, verbose=0)
# Moving averages of batch normalization are each worker's own.
print("weights of rank %d: %s" % (hvd.rank(), [float(w.numpy().sum()).hex() for w in model.trainable_weights]))
print("metrics of rank %d: %s" % (hvd.rank(), {k: float(v[-1]).hex() for k, v in sorted(history.history.items())}))
if hvd.rank() == 0:
    print("rates: %s" % [f"{rate:.4f}" for rate in Rates.seen])
    print(f"Test accuracy: {score[1]:.3f}")
