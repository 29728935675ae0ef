"""Local SGD's weights are averaged with the end of an epoch."""

from __future__ import annotations

import keras

from hvdkit.optim.reduction_state import synchronize


class LocalSGDCallback(keras.callbacks.Callback):
    """Average the weights of ``LocalSGD`` before a validation, at the end of an epoch and of the training.

    ``fit`` on several ranks has it before all others where an optimizer of ``hvd.optim.LocalSGD`` trains.
    """

    def on_test_begin(self, logs=None):
        synchronize(self.model)

    def on_epoch_end(self, epoch, logs=None):
        synchronize(self.model)

    def on_train_end(self, logs=None):
        synchronize(self.model)
