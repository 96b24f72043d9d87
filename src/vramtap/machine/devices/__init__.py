"""Devices of the built-in VM, behind its I/O ports."""
