"""Targets `x11:`: Xvfb servers, whose framebuffer lies in their memory."""
