"""A QMP client for the tests. The ground truth must not come from the code under test."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, Final

from support.testbed.errors import TestbedError

if TYPE_CHECKING:
    import socket

_LINE_LIMIT_BYTES: Final = 64 * 1024 * 1024


class Monitor:
    """One QMP connection (QEMU: docs/interop/qmp-spec.txt). Any thread may use it.

    Args:
        connection: A connected stream socket to a QMP monitor.
        timeout_s: Time limit for an answer, seconds.
    """

    def __init__(self, connection: socket.socket, timeout_s: float = 60) -> None:
        connection.settimeout(timeout_s)
        self._socket = connection
        self._lines = connection.makefile("rb")
        self._lock = threading.Lock()
        self.events: list[dict[str, Any]] = []
        """Events that arrived between answers, oldest first."""

    def greet(self) -> None:
        """Read the greeting and enable commands.

        Raises:
            TestbedError: The peer is no QMP monitor, or QEMU has ended.
        """
        with self._lock:
            if "QMP" not in self._read():
                raise TestbedError("no QMP greeting")
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever the command returns
        """Run a command (`_` in argument names stands for `-`).

        Raises:
            TestbedError: QEMU answered with an error, or has ended.
        """
        message = {
            "execute": command,
            "arguments": {name.replace("_", "-"): value for name, value in arguments.items()},
        }
        with self._lock:
            try:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                raise TestbedError(f"QMP {command}: {error}") from error
            while True:
                answer = self._read()
                if "event" in answer:
                    self.events.append(answer)
                elif "error" in answer:
                    raise TestbedError(f"QMP {command}: {answer['error']['desc']}")
                else:
                    return answer["return"]

    def human(self, line: str) -> str:
        """Run a command of the human monitor."""
        answer: str = self.execute("human-monitor-command", command_line=line)
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._lines.readline(_LINE_LIMIT_BYTES)
        except OSError as error:
            raise TestbedError(f"QMP: no answer: {error}") from error
        if not line.endswith(b"\n"):
            raise TestbedError("QMP: QEMU closed the monitor")
        message: dict[str, Any] = json.loads(line)
        return message
