"""Two players: each with an optimizer of its own, in a train step or a loop of the user's."""

from __future__ import annotations

import keras
import tensorflow as tf

import hvdkit as hvd
from tests.people.common import ended, numbers, shard

LATENT, FEATURES = 3, 4


def _net(inputs: int, outputs: int) -> keras.Model:
    hidden = keras.layers.Dense(8, activation="tanh")
    return keras.Sequential([keras.Input((inputs,)), hidden, keras.layers.Dense(outputs)])


class GAN(keras.Model):
    """keras.io's DCGAN: fake and real in one batch, noise on the labels."""

    def __init__(self):
        super().__init__()
        self.discriminator, self.generator = _net(FEATURES, 1), _net(LATENT, FEATURES)

    def compile(self, d_optimizer, g_optimizer, loss_fn, **how):
        super().compile(**how)
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn
        self.d_loss_metric = keras.metrics.Mean(name="d_loss")
        self.g_loss_metric = keras.metrics.Mean(name="g_loss")

    @property
    def metrics(self):
        return [self.d_loss_metric, self.g_loss_metric]

    def train_step(self, data):
        real, noise = data
        size = tf.shape(real)[0]
        combined = tf.concat([self.generator(noise), real], axis=0)
        targets = tf.concat([tf.ones((size, 1)), tf.zeros((size, 1))], axis=0)
        targets += 0.05 * tf.abs(tf.sin(combined[:, :1]))  # a sample's own, so that every world has the same
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(targets, self.discriminator(combined))
        grads = tape.gradient(d_loss, self.discriminator.trainable_weights)
        self.d_optimizer.apply_gradients(zip(grads, self.discriminator.trainable_weights, strict=True))
        with tf.GradientTape() as tape:
            g_loss = self.loss_fn(tf.zeros((size, 1)), self.discriminator(self.generator(noise)))
        grads = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply_gradients(zip(grads, self.generator.trainable_weights, strict=True))
        self.d_loss_metric.update_state(d_loss, sample_weight=size)
        self.g_loss_metric.update_state(g_loss, sample_weight=size)
        return {"d_loss": self.d_loss_metric.result(), "g_loss": self.g_loss_metric.result()}


def _gan(data, **how) -> dict:
    hvd.set_seed(1)
    made = GAN()
    adam = lambda: hvd.DistributedOptimizer(keras.optimizers.Adam(1e-3, beta_1=0.5))
    made.compile(adam(), adam(), keras.losses.BinaryCrossentropy(from_logits=True), **how)
    history = made.fit(data, epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.discriminator, made.generator, history=history)


def gan(n: int) -> dict:
    return _gan(shard(numbers(n, FEATURES), numbers(n, LATENT, seed=1)))


def gan_run_eagerly(n: int) -> dict:
    return _gan(shard(numbers(n, FEATURES), numbers(n, LATENT, seed=1)), run_eagerly=True)


def gan_on_a_dataset(n: int) -> dict:
    """From ``tf.data``, of a length that nobody knows, two steps at a time."""
    pairs = tf.data.Dataset.from_tensor_slices((numbers(n, FEATURES), numbers(n, LATENT, seed=1)))
    return _gan(shard(pairs.filter(lambda *_: True)), steps_per_execution=2)


class WGAN(keras.Model):
    """keras.io's WGAN-GP: several steps of the critic, with a penalty on its gradient at points between."""

    every = 0

    def __init__(self):
        super().__init__()
        self.critic, self.generator = _net(FEATURES, 1), _net(LATENT, FEATURES)

    def compile(self, c_optimizer, g_optimizer, **how):
        super().compile(**how)
        self.c_optimizer, self.g_optimizer = c_optimizer, g_optimizer

    def gradient_penalty(self, real, fake):
        alpha = tf.sigmoid(real[:, :1])
        between = real + alpha * (fake - real)
        with tf.GradientTape() as tape:
            tape.watch(between)
            out = self.critic(between, training=True)
        grads = tape.gradient(out, between)
        norm = tf.sqrt(tf.reduce_sum(tf.square(grads), axis=1) + 1e-8)
        return tf.reduce_mean((norm - 1.0) ** 2)

    def train_step(self, data):
        real, noise = data
        for i in range(2):
            with tf.GradientTape() as tape:
                fake = self.generator(noise[:, i], training=True)
                out = self.critic(real, training=True)
                loss = tf.reduce_mean(self.critic(fake, training=True)) - tf.reduce_mean(out)
                loss += 10.0 * self.gradient_penalty(real, fake)
            grads = tape.gradient(loss, self.critic.trainable_variables)
            self.c_optimizer.apply_gradients(zip(grads, self.critic.trainable_variables, strict=True))
        if self.every:
            tf.cond(
                self.c_optimizer.iterations % (2 * self.every) == 0, lambda: self.step_of_generator(noise), lambda: 0.0
            )
        else:
            self.step_of_generator(noise)
        return {"c_loss": loss}

    def step_of_generator(self, noise):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.critic(self.generator(noise[:, 2], training=True), training=True))
        grads = tape.gradient(loss, self.generator.trainable_variables)
        self.g_optimizer.apply_gradients(zip(grads, self.generator.trainable_variables, strict=True))
        return loss


def _wgan(n: int, every: int) -> dict:
    hvd.set_seed(1)
    made = WGAN()
    made.every = every
    optimizer = lambda: hvd.DistributedOptimizer(keras.optimizers.SGD(0.02, momentum=0.5))
    made.compile(optimizer(), optimizer())
    made.c_optimizer.build(made.critic.trainable_variables)
    made.g_optimizer.build(made.generator.trainable_variables)
    data = shard(numbers(n, FEATURES), numbers(n, 3, LATENT, seed=1))
    made.fit(data, epochs=2, callbacks=hvd.callbacks.defaults(), verbose=0)
    return ended(made.critic, made.generator, steps=[int(o.iterations) for o in (made.c_optimizer, made.g_optimizer)])


def wgan_gp(n: int) -> dict:
    return _wgan(n, 0)


def generator_every_third_step(n: int) -> dict:
    """By ``tf.cond`` in the train step."""
    return _wgan(n, 3)


def gan_tutorial_loop(n: int) -> dict:
    """TensorFlow's DCGAN tutorial: a ``tf.function`` with two tapes."""
    hvd.set_seed(1)
    generator, discriminator = _net(LATENT, FEATURES), _net(FEATURES, 1)
    g_optimizer, d_optimizer = keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3)
    entropy = keras.losses.BinaryCrossentropy(from_logits=True)
    hvd.broadcast_variables([*generator.weights, *discriminator.weights])

    @tf.function
    def train_step(images, noise, share):
        with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
            real, fake = discriminator(images, training=True), discriminator(generator(noise, training=True))
            g_loss = share * entropy(tf.ones_like(fake), fake)
            d_loss = share * (entropy(tf.ones_like(real), real) + entropy(tf.zeros_like(fake), fake))
        g_tape, d_tape = hvd.DistributedGradientTape(g_tape), hvd.DistributedGradientTape(d_tape)
        g_grads = g_tape.gradient(g_loss, generator.trainable_variables)
        d_grads = d_tape.gradient(d_loss, discriminator.trainable_variables)
        g_optimizer.apply_gradients(zip(g_grads, generator.trainable_variables, strict=True))
        d_optimizer.apply_gradients(zip(d_grads, discriminator.trainable_variables, strict=True))
        return d_loss

    data = shard(numbers(n, FEATURES), numbers(n, LATENT, seed=1))
    losses = []
    for epoch in range(2):
        for (images, noise), share in data.batches(epoch):
            losses.append(hvd.allreduce(train_step(images, noise, share)))
    hvd.assert_equal_weights([*generator.weights, *discriminator.weights])
    return ended(discriminator, generator, losses=[float(v) for v in losses])


SCRIPTS = (gan, gan_run_eagerly, gan_on_a_dataset, wgan_gp, generator_every_third_step, gan_tutorial_loop)
