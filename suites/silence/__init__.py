"""The table of silence: each thing that a user can ask transformers for is honoured, refused in words, or ignored.

Every request is tried, in processes of its own, beside the same call without it. `python -m suites.silence` tries all.
"""
