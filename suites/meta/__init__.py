"""Tests of the harness itself, on the CPU. Every checker has one in which it fails."""
