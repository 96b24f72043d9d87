"""Xen's libraries: one module per library, no policy."""
