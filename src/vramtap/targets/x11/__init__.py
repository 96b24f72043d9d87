"""X servers whose framebuffer is in memory."""
