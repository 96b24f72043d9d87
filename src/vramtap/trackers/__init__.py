"""Ways of finding out which pages were written."""
