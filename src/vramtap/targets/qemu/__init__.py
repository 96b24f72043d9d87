"""Targets `qemu:`: QEMU guests, found and driven through QMP."""
