"""``hvdkit train``: the configuration, what it chooses by name, and the training that it describes."""
