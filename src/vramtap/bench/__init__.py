"""Measurements that rerun the figures the README shows."""
