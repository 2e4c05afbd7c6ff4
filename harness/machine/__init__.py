"""What this machine is and has, and which needs of an optimization it meets."""
