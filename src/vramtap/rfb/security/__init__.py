"""RFB security types."""
