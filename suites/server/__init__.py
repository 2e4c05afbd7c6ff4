"""`transformers serve` over HTTP: a day of requests, and a kill in the middle."""
