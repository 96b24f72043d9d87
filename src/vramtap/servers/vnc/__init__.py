"""The VNC server: sessions, their update and input queues, and the TCP listener."""
