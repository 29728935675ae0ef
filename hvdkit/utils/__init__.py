"""What every room needs: the environment, the log, numbers, registries. Nothing here imports TensorFlow."""
