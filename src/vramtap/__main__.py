"""`python -m vramtap` is the program `vramtap`."""

from vramtap.cli.main import main

main()
