"""What a new user starts first, in the environment that README promises: `tox run -e bare`."""
