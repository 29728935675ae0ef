"""Digits with a training loop of its own, in the style of Horovod's TensorFlow 2 example."""

import sys

import horovod.tensorflow as hvd
import tensorflow as tf
from sklearn.datasets import load_digits

hvd.init()

gpus = tf.config.experimental.list_physical_devices("GPU")
for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
if gpus:
    tf.config.experimental.set_visible_devices(gpus[hvd.local_rank()], "GPU")

compression = hvd.Compression.fp16 if "--fp16-allreduce" in sys.argv else hvd.Compression.none

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
loss = tf.losses.SparseCategoricalCrossentropy()

# Horovod: adjust the learning rate to the number of workers.
opt = tf.optimizers.Adam(0.002 * hvd.size())


@tf.function
def training_step(images, labels, first_batch):
    with tf.GradientTape() as tape:
        probs = model(images, training=True)
        loss_value = loss(labels, probs)

    # Horovod: add the distributed gradient tape.
    tape = hvd.DistributedGradientTape(tape, compression=compression)

    grads = tape.gradient(loss_value, model.trainable_variables)
    opt.apply_gradients(zip(grads, model.trainable_variables))

    # Horovod: everybody goes on from worker 0's variables, after the first step has made them all.
    if first_batch:
        hvd.broadcast_variables(model.variables, root_rank=0)
        hvd.broadcast_variables(opt.variables, root_rank=0)

    return loss_value


for batch, (x, y) in enumerate(dataset.take(160 // hvd.size())):
    loss_value = training_step(x, y, batch == 0)
    if batch % 20 == 0 and hvd.rank() == 0:
        print("Step #%d\tLoss: %.6f" % (batch, loss_value))

# Horovod: the mean loss over all workers.
mean_loss = float(hvd.allreduce(loss_value, op=hvd.Average))
correct = tf.argmax(model(tf.cast(images[:357], tf.float32)), -1) == labels[:357]
print("loss of rank %d: %s" % (hvd.rank(), mean_loss.hex()))
print("weights of rank %d: %s" % (hvd.rank(), [float(w.sum()).hex() for w in model.get_weights()]))
if hvd.rank() == 0:
    print(f"Test accuracy: {tf.reduce_mean(tf.cast(correct, tf.float32)):.3f}")
