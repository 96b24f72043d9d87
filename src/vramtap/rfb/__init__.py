"""The server side of the RFB protocol (RFC 6143 and its registered extensions), without I/O."""
