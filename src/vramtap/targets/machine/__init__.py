"""The built-in VM as a target."""
