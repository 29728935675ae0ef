"""What is on this machine, found once for launching, for ``hvdkit doctor`` and for building Horovod."""
