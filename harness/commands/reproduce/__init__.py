"""`harness reproduce`: a script that shows a failure without this project."""
