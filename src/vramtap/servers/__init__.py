"""Servers: VNC over TCP, and the web page. This package faces the network."""
