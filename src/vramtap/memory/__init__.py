"""Extents, and the address spaces they lie in."""
