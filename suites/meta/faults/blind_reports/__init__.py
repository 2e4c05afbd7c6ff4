"""Faults of the blind set of reports: under what conditions they were written, stands in `blind_reports_set`."""
