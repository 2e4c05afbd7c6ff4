"""Faults of the blind set of reports. `blind_reports_set` says how they were written."""
