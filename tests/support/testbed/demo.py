"""Boots a guest and serves its screen with the program, until Ctrl-C ends both."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from support.testbed.errors import TestbedError
from support.testbed.guest import Guest

_WELCOME: Final = """
This is a guest's console; what you type goes to its shell. Things to try:
  fbtool draw 1 50 &      paint rectangles; kill %1 ends it
  dmesg                   scroll
  fbtool noise 7          every pixel at random
  fbtool mode 1280 720 32 change the resolution, then draw
  reboot -f"""
_GOODBYE_S: Final = 10


def main() -> int:
    """Serve on free ports of loopback, or as the command line says.

    Returns:
        The program's exit status; 0 after Ctrl-C.
    """
    program = Path(sys.executable).parent / "vramtap"
    arguments = sys.argv[1:] or ["--web", "127.0.0.1:0", "--vnc", "127.0.0.1:0"]
    print("booting a guest: Debian's kernel under QEMU, a few seconds ...", flush=True)
    try:
        with Guest() as guest:
            guest.show(_WELCOME)
            return _serve([str(program), "serve", guest.url, *arguments])
    except KeyboardInterrupt:
        return 0
    except TestbedError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _serve(command: list[str]) -> int:
    # In this process's own group: the terminal's Ctrl-C reaches it, and it says goodbye in its own words.
    with subprocess.Popen(command) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(_GOODBYE_S)
            return 0
        finally:
            if server.poll() is None:
                server.terminate()


if __name__ == "__main__":
    sys.exit(main())
