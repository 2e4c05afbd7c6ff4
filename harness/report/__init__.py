"""A run as files and tables. Everything is rendered from the run's record, so it can be rendered again."""
