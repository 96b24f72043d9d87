"""The tracker for Xen domains."""
