"""How one output is compared with another: numbers from tensors, and rules over numbers."""
