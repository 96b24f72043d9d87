"""Targets `xen:`: Xen HVM domains, tapped from dom0."""
