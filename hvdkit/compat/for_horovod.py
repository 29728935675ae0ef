"""What ``import horovod`` finds; the version is that of Horovod whose arguments hvdkit takes."""

__all__ = ["__version__"]
__version__ = "0.28.1"
