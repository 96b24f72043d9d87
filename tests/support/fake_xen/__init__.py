"""Xen's libraries as a test wants them: in C, so that what is passed to them is what really arrives."""
