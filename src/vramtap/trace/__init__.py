"""Traces: which pages were written when, and what any policy would have made of it."""
