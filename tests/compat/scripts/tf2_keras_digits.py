"""Digits in the style of Horovod's example for tf.keras in TensorFlow 2."""

import horovod.tensorflow.keras as hvd
import tensorflow as tf
from sklearn.datasets import load_digits


def main():
    # Horovod: initialize Horovod.
    hvd.init()

    # Horovod: pin the GPU of this process' local rank.
    gpus = tf.config.experimental.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        tf.config.experimental.set_visible_devices(gpus[hvd.local_rank()], "GPU")
    # The same with what every machine has: it raises once TensorFlow has started its devices.
    tf.config.experimental.set_visible_devices(tf.config.experimental.list_physical_devices("CPU"), "CPU")

    digits = load_digits()
    images, labels = digits.images[..., tf.newaxis] / 16.0, digits.target
    dataset = tf.data.Dataset.from_tensor_slices((tf.cast(images[357:], tf.float32), tf.cast(labels[357:], tf.int64)))
    dataset = dataset.shard(hvd.size(), hvd.rank()).repeat().shuffle(1000).batch(16)

    model = tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(16, [3, 3], activation="relu"),
            tf.keras.layers.MaxPooling2D(pool_size=(2, 2)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(10, activation="softmax"),
        ]
    )

    # Horovod: adjust the learning rate to the number of workers.
    scaled_lr = 0.002 * hvd.size()
    opt = tf.optimizers.Adam(scaled_lr)

    # Horovod: add the distributed optimizer.
    opt = hvd.DistributedOptimizer(opt, backward_passes_per_step=1, average_aggregated_gradients=True)
    model.compile(loss=tf.losses.SparseCategoricalCrossentropy(), optimizer=opt, metrics=["accuracy"])

    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
        hvd.callbacks.LearningRateWarmupCallback(initial_lr=scaled_lr, warmup_epochs=1, verbose=1),
    ]
    if hvd.rank() == 0:
        callbacks.append(tf.keras.callbacks.ModelCheckpoint("./checkpoint-{epoch}.h5"))

    # Horovod: adjust the number of steps to the number of workers.
    model.fit(
        dataset, steps_per_epoch=90 // hvd.size(), callbacks=callbacks, epochs=3, verbose=1 if hvd.rank() == 0 else 0
    )

    _, accuracy = model.evaluate(images[:357], labels[:357], verbose=0)
    print("weights of rank %d: %s" % (hvd.rank(), [float(w.sum()).hex() for w in model.get_weights()]))
    if hvd.rank() == 0:
        print(f"Test accuracy: {accuracy:.3f}")


if __name__ == "__main__":
    main()
