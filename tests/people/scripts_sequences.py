"""Sequences, masks, several inputs and outputs, states that go on, attention."""

from __future__ import annotations

import keras
import numpy as np

import hvdkit as hvd
from tests.people.common import GLOBAL_BATCH, ended, labels, numbers, sgd, shard

layers = keras.layers


def masked_dict_inputs(n: int) -> dict:
    """A text and a series of unequal lengths, as a dict; two outputs with weights of their own."""
    hvd.set_seed(1)
    series = numbers(n, 6, 2)
    words = np.random.default_rng(3).integers(1, 20, size=(n, 5)).astype("int32")
    for i in range(n):
        series[i, 2 + i % 5 :] = 0.0
        words[i, 1 + i % 5 :] = 0
    kind, amount = labels(series), series.sum((1, 2), keepdims=True)[:, 0]
    text = keras.Input((5,), dtype="int32", name="text")
    values = keras.Input((6, 2), name="values")
    read = layers.LSTM(6)(layers.Embedding(20, 4, mask_zero=True)(text))
    seen = layers.LSTM(6)(layers.Masking()(values))
    both = layers.concatenate([read, seen])
    outputs = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(both),
        "amount": layers.Dense(1, name="amount")(both),
    }
    made = keras.Model({"text": text, "values": values}, outputs)
    made.compile(
        sgd(0.05),
        loss={"kind": "sparse_categorical_crossentropy", "amount": "mse"},
        loss_weights={"kind": 1.0, "amount": 0.2},
        metrics={"kind": ["accuracy"], "amount": ["mae"]},
    )
    data = shard({"text": words, "values": series}, {"kind": kind, "amount": amount})
    history = made.fit(data, validation_data=data, epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    # What Keras averages over batches in evaluation is the documented exception.
    kept = {k: v for k, v in history.history.items() if k not in ("val_kind_loss", "val_amount_loss")}
    return ended(made, history=kept)


def weights_per_time_step(n: int) -> dict:
    """A tagger whose padding is left out by ``sample_weight`` of every time step."""
    hvd.set_seed(1)
    x = numbers(n, 5, 3)
    y = (x.sum(2) > 0).astype("int32")
    weight = np.array([[1.0 if t <= i % 5 else 0.0 for t in range(5)] for i in range(n)], "float32")
    made = keras.Sequential([keras.Input((5, 3)), layers.GRU(6, return_sequences=True), layers.Dense(2)])
    made.compile(sgd(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), weighted_metrics=["accuracy"])
    data = shard(x, y, sample_weight=weight)
    return ended(made, history=made.fit(data, epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0))


def _stateful() -> keras.Model:
    hvd.set_seed(1)
    read = keras.Input(batch_shape=(GLOBAL_BATCH // hvd.size(), 4, 2))
    made = keras.Model(read, layers.Dense(1)(layers.LSTM(5, stateful=True)(read)))
    made.compile(sgd(), "mse")
    return made


class ResetStates(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        for layer in self.model.layers:
            if hasattr(layer, "reset_states"):
                layer.reset_states()


def stateful_rnn(n: int) -> dict:
    """Row i of each batch goes on where row i of the one before ended. Full batches only: Keras wants them."""
    made, n = _stateful(), n // GLOBAL_BATCH * GLOBAL_BATCH
    x = numbers(n, 4, 2)
    data = shard(x, x.sum((1, 2)), shuffle=False)
    history = made.fit(data, epochs=2, callbacks=[ResetStates(), *hvd.callbacks.defaults()], verbose=0)
    return ended(made.trainable_weights, history=history)


def stateful_over_fits(n: int) -> dict:
    """The same, where a second ``fit`` goes on with the states of the first: nobody resets them."""
    made, n = _stateful(), n // GLOBAL_BATCH * GLOBAL_BATCH
    x = numbers(n, 4, 2)
    data = shard(x, x.sum((1, 2)), shuffle=False)
    for _ in range(2):
        made.fit(data, epochs=1, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.trainable_weights)


class Block(layers.Layer):
    """keras.io's transformer block."""

    def __init__(self, dim: int, rate: float):
        super().__init__()
        self.att = layers.MultiHeadAttention(2, dim // 2, dropout=rate)
        self.ffn = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(dim)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.drops = [layers.Dropout(rate) for _ in range(2)]

    def build(self, shape):
        self.att.build(shape, shape)
        self.ffn.build(shape)
        for part in (*self.norms, *self.drops):
            part.build(shape)
        self.built = True

    def call(self, x, training=None):
        x = self.norms[0](x + self.drops[0](self.att(x, x, training=training), training=training))
        return self.norms[1](x + self.drops[1](self.ffn(x), training=training))


class Tokens(layers.Layer):
    def __init__(self, length: int, words: int, dim: int):
        super().__init__()
        self.word, self.place = layers.Embedding(words, dim), layers.Embedding(length, dim)

    def build(self, shape):
        self.word.build(shape)
        self.place.build(shape)
        self.built = True

    def call(self, x):
        return self.word(x) + self.place(keras.ops.arange(x.shape[-1]))


def _transformer(n: int, rate: float, optimizer) -> tuple:
    hvd.set_seed(1)
    words = np.random.default_rng(3).integers(0, 20, size=(n, 6)).astype("int32")
    read = keras.Input((6,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(Block(6, rate)(Tokens(6, 20, 6)(read)))
    made = keras.Model(read, layers.Dense(2, activation="softmax")(layers.Dropout(rate)(x)))
    made.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    data = shard(words, (words.sum(1) % 2).astype("int32"))
    return made, made.fit(data, epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)


def transformer(n: int) -> dict:
    made, history = _transformer(n, 0.0, sgd())
    return ended(made, history=history)


def transformer_with_dropout(n: int) -> dict:
    """Its masks are random: only the ranks can be compared."""
    made, _ = _transformer(n, 0.3, hvd.DistributedOptimizer(keras.optimizers.AdamW(1e-3)))
    return ended(own=made.trainable_weights)


def augmentation(n: int) -> dict:
    """Random layers in the model, as keras.io has them: only the ranks can be compared."""
    hvd.set_seed(1)
    x = numbers(n, 6, 6, 1)
    random = [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.1, 0.1), layers.GaussianNoise(0.1)]
    made = keras.Sequential([keras.Input((6, 6, 1)), *random, layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)])
    made.compile(sgd(0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit(shard(x, labels(x)), epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(own=made.trainable_weights)


class RandomPart(keras.Model):
    """Random numbers drawn in the train step, kept to be looked at."""

    def __init__(self):
        super().__init__()
        self.drawn = self.add_weight(shape=(2,), trainable=False, name="drawn")
        self.seeds, self.own = keras.random.SeedGenerator(7), hvd.set_seed(1).data
        self.dense = layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        import tensorflow as tf

        self.drawn.assign(tf.stack([keras.random.normal((), seed=self.seeds), tf.random.normal((), seed=self.own)]))
        return super().train_step(data)


def random_numbers_are_each_ranks_own(n: int) -> dict:
    """A GAN's noise, a VAE's, dropout's masks: N ranks that draw the same have a batch as small as one rank's."""
    x = numbers(n, 4)
    made = RandomPart()
    made.compile(sgd(), "mse")
    made.fit(shard(x[:GLOBAL_BATCH], x[:GLOBAL_BATCH, :1]), epochs=1, callbacks=hvd.callbacks.defaults(), verbose=0)
    everyones = hvd.allgather_object(made.drawn.numpy())
    differ = [len({float(d[i]) for d in everyones}) == len(everyones) for i in range(2)]
    return ended(by_seed_generator=differ[0], by_tensorflow=differ[1])


SCRIPTS = (
    masked_dict_inputs,
    weights_per_time_step,
    stateful_rnn,
    stateful_over_fits,
    transformer,
    transformer_with_dropout,
    augmentation,
    random_numbers_are_each_ranks_own,
)
