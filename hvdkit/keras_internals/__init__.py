"""The private parts of Keras and TensorFlow: each is touched here and nowhere else."""
