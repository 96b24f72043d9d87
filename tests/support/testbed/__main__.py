"""Boots a guest for manual work. Prints its URL, and runs until Ctrl-C."""

from __future__ import annotations

import sys

from support.testbed.errors import TestbedError
from support.testbed.guest import Guest


def main() -> int:
    """Boot with the command line's arguments for QEMU. Wait for Ctrl-C or the guest's end."""
    try:
        with Guest(sys.argv[1:]) as guest:
            print(f"READY {guest.url}", flush=True)
            print(f"try: vramtap serve {guest.url} --web 127.0.0.1:0    (Ctrl-C ends the guest)", flush=True)
            guest.wait_end()
    except KeyboardInterrupt:
        return 0
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
