"""A fake of Xen's libraries, in C, so that tests also check the arguments that reach a real library."""
