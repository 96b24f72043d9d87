"""From written pages to changed pixels."""
