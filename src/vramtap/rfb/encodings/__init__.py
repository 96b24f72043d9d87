"""RFB encodings, a registry by number."""
