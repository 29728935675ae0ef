"""Tests of hvdkit.horovod_build."""
