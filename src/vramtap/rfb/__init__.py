"""The RFB protocol (RFC 6143 and its registered extensions), sans I/O."""
