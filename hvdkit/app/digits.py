"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that come with the package."""

from __future__ import annotations

import numpy as np

from hvdkit.errors import UsageError


def load_digits(test_fraction: float = 1 / 3, seed: int = 0) -> tuple[tuple, tuple]:
    """The digits, shuffled alike on every rank and split.

    Args:
        test_fraction: the part held out.
        seed: of the shuffle; the held-out part must not change with it between runs that are compared.

    Returns:
        ``(x, y), (x_test, y_test)``: images as float32 from 0 to 1 of shape (n, 8, 8, 1), labels as int32.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as sklearn_digits
    except ImportError:
        raise UsageError("The digits come with scikit-learn.", fix="pip install scikit-learn") from None
    bunch = sklearn_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    x = (bunch.images[order, :, :, None] / 16.0).astype("float32")
    y = bunch.target[order].astype("int32")
    n_test = round(len(y) * test_fraction)
    return (x[n_test:], y[n_test:]), (x[:n_test], y[:n_test])
