"""The end of local SGD's rounds with the end of an epoch."""

from __future__ import annotations

import keras

from hvdkit.keras_model import optimizers_of


class LocalRounds(keras.callbacks.Callback):
    """Average the weights of local SGD before a validation, at the end of an epoch and of the training.

    ``fit`` on several ranks has it before all others where an optimizer of ``hvd.strategies.local_sgd`` trains.
    """

    def _settle(self):
        for optimizer in optimizers_of(self.model):
            ours = getattr(getattr(optimizer, "inner_optimizer", optimizer), "_hvdkit", None)
            if ours is not None and ours.rounds is not None:
                ours.rounds.settle(ours.pipeline)

    def on_test_begin(self, logs=None):
        self._settle()

    def on_epoch_end(self, epoch, logs=None):
        self._settle()

    def on_train_end(self, logs=None):
        self._settle()
