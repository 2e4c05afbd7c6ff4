"""What a new user starts first, in the environment that docs/running.md promises: `tox run -e bare`."""
