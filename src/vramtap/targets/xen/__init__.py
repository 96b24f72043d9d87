"""Xen HVM domains, from dom0."""
