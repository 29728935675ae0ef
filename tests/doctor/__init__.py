"""Tests of hvdkit.doctor."""
