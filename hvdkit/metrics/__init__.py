"""Metrics over all ranks."""
