"""What only one technique has."""
