"""Checkpoints as files: format, atomic commit, one job per directory, retention. Without TensorFlow."""
