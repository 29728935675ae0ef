"""The gradient's way from the tape to the optimizer: the pipeline and the reducers."""
