"""The end of local SGD's rounds with the end of an epoch."""

from __future__ import annotations

import keras

from hvdkit.optim.local_sgd.state import end_round


class LocalRounds(keras.callbacks.Callback):
    """Average the weights of local SGD before a validation, at the end of an epoch and of the training.

    ``fit`` on several ranks has it before all others where an optimizer of ``hvd.strategies.local_sgd`` trains.
    """

    def on_test_begin(self, logs=None):
        end_round(self.model)

    def on_epoch_end(self, epoch, logs=None):
        end_round(self.model)

    def on_train_end(self, logs=None):
        end_round(self.model)
