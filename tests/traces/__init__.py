"""Recorded traces for tests and benchmarks, and their recorders: `python -m traces`."""
