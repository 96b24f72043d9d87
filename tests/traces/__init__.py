"""Recorded traces that tests and benchmarks replay, and what records them again: `python -m traces`."""
