"""Online decisions of the hybrid tracker, as pure functions."""
