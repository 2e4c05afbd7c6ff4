"""The tests: what must hold for every path, and the tests of the harness itself."""
