"""Relations of what `generate` offers beyond plain greedy decoding: each does what it is defined to do."""
