"""Random numbers: seeds apart on each rank, and the generators' state for checkpoints."""
