"""Relations that must hold for any input, whatever the right output is. hypothesis draws the input."""
