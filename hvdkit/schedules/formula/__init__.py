"""The learning rate of a large batch as pure numbers, without TensorFlow."""
