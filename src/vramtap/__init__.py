"""vramtap shows a guest's screen by following the pages its video RAM was written through."""
