"""One module per kernel interface: calls and ABI structs, no policy."""
