"""The testbed: real guests, X servers and writers, for the tests and for trying things by hand."""
