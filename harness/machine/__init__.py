"""Facts about this machine, and which needs of an optimization it meets."""
