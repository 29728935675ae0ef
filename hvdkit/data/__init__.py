"""Data: the sets that need no download, and each rank's part of one."""
