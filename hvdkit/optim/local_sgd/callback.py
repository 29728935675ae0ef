"""Local SGD's weights are averaged with the end of an epoch."""

from __future__ import annotations

import keras

from hvdkit.optim.reduction_state import reduction_states


class LocalSGDCallback(keras.callbacks.Callback):
    """Average the weights of ``LocalSGD`` before a validation, at the end of an epoch and of the training.

    ``fit`` on several ranks has it before all others where an optimizer of ``hvd.optim.LocalSGD`` trains.
    """

    @staticmethod
    def synchronize(model: keras.Model) -> None:
        """Average the weights that have drifted apart; collective."""
        for state in reduction_states(model):
            if not state.is_synchronous:
                state.averaging.synchronize(state.pipeline)

    def on_test_begin(self, logs=None):
        self.synchronize(self.model)

    def on_epoch_end(self, epoch, logs=None):
        self.synchronize(self.model)

    def on_train_end(self, logs=None):
        self.synchronize(self.model)
