"""Boots a guest and serves its screen with vramtap until Ctrl-C."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from support.testbed.errors import TestbedError
from support.testbed.guest import Guest

_WELCOME: Final = """
This is a guest's console. The keys that you type go to its shell. Try:
  fbtool draw 1 50 &      paint rectangles; kill %1 ends it
  dmesg                   scroll
  fbtool noise 7          every pixel at random
  fbtool mode 1280 720 32 change the resolution, then draw
  reboot -f"""
_REPORT_TIMEOUT_S: Final = 10


def main() -> int:
    """Serve on free loopback ports, or with the arguments of the command line.

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
    # The server is in this process's group. So Ctrl-C in the terminal reaches it, and it prints its report.
    with subprocess.Popen(command) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(_REPORT_TIMEOUT_S)
            return 0
        finally:
            if server.poll() is None:
                server.terminate()


if __name__ == "__main__":
    sys.exit(main())
