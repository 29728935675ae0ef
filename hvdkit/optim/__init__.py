"""The distributed optimizer."""
