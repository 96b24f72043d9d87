"""Security types of the handshake, one module each (RFC 6143, 7.1.2)."""
