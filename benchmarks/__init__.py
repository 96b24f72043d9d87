"""Measure vramtap and other VNC servers on this machine in one run; not a part of the package."""
