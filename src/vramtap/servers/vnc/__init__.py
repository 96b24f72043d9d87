"""The VNC server."""
