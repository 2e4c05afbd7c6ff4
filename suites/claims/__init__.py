"""What the optimization overview of transformers says, as tests: its ticks, its sentences, its examples.

The overview: https://huggingface.co/docs/transformers/optimization_overview, as of transformers 5.22. A claim that does
not hold is a failure, with its numbers; the profile of a machine may disclaim it, with a reason, and then it is
reported as DISCLAIMED.
"""
