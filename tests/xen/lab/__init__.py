"""The Xen laboratory: a real Xen host, its dom0 and its guests, all in one process of emulated QEMU."""
