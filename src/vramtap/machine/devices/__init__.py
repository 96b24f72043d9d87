"""The embedded machine's devices: what is behind its ports."""
