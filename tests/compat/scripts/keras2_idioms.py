"""Digits in words of Keras 2 that Keras 3 has no more; Horovod's scripts of its day are full of them."""

import horovod.tensorflow.keras as hvd
import tensorflow as tf
from horovod.tensorflow.keras import callbacks as horovod_callbacks
from keras import backend as K
from keras.layers.core import Dense, Dropout, Flatten
from keras.preprocessing.image import ImageDataGenerator
from keras.utils import np_utils
from sklearn.datasets import load_digits

hvd.init()
config = tf.ConfigProto()
config.gpu_options.allow_growth = True
config.gpu_options.visible_device_list = str(hvd.local_rank())
K.set_session(tf.Session(config=config))

digits = load_digits()
x, y = (digits.images[..., tf.newaxis] / 16.0).astype("float32"), np_utils.to_categorical(digits.target, 10)
x_test, y_test, x, y = x[:357], y[:357], x[357:], y[357:]

model = tf.keras.Sequential()
model.add(tf.keras.layers.Conv2D(16, kernel_size=(3, 3), activation="relu", input_shape=(8, 8, 1)))
model.add(Flatten())
model.add(Dropout(0.1))
model.add(Dense(64, activation="relu"))
model.add(Dense(10, activation="softmax"))

opt = tf.keras.optimizers.legacy.SGD(lr=0.05 * hvd.size(), momentum=0.9)
opt = hvd.DistributedOptimizer(opt)
model.compile(loss="categorical_crossentropy", optimizer=opt, metrics=["acc"], experimental_run_tf_function=False)


class HalfTheRate(tf.keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            K.set_value(self.model.optimizer.lr, K.get_value(self.model.optimizer.lr) / 2)


model.fit_generator(
    ImageDataGenerator().flow(x, y, batch_size=16),
    steps_per_epoch=90 // hvd.size(),
    epochs=3,
    callbacks=[
        horovod_callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
        HalfTheRate(),
    ],
    workers=2,
    verbose=1 if hvd.rank() == 0 else 0,
)

_, accuracy = model.evaluate_generator(ImageDataGenerator().flow(x_test, y_test, batch_size=51), steps=7)
print("weights of rank %d: %s" % (hvd.rank(), [float(w.sum()).hex() for w in model.get_weights()]))
if hvd.rank() == 0:
    print("rate: %.4f, %d variables" % (K.get_value(opt.lr) / hvd.size(), len(opt.variables())))
    print(f"Test accuracy: {accuracy:.3f}")
