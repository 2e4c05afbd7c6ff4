"""Combinations: what is declared impossible is tried, and must not pass."""
