"""What faces the network: VNC over TCP, and the web page."""
