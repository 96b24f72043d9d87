"""QEMU guests, found and driven through QMP."""
