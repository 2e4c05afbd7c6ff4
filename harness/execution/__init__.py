"""Run cases: worker processes, what they do, and evidence from what they answer."""
