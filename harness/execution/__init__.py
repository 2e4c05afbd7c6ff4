"""Execution of cases: worker processes, their tasks, and evidence from their answers."""
