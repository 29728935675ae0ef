"""Local SGD: ranks train by themselves and average their weights every few steps."""
