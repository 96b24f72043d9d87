"""Key and pointer events, keysyms and layouts."""
