"""Extents and the address spaces that they belong to."""
