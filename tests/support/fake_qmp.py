"""QMP servers for tests, whose answers the test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}

Answer = Callable[[str, dict[str, Any]], object]
"""Called with a command and its arguments. Returns the value to answer, bytes to send unchanged, or None to
hang up."""


@contextlib.asynccontextmanager
async def fake_qmp(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Serve QMP on a socket during the block. At its end this waits for all clients to leave.

    Args:
        path: Path of the socket.
        answer: Returns the answers. It is not called for the negotiation.
    """
    serving: set[asyncio.Task[Any]] = set()
    defects: list[Exception] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            writer.write(json.dumps(GREETING).encode() + b"\n")
            async for message in _messages(reader):
                if message["execute"] == "qmp_capabilities":
                    writer.write(b'{"return": {}}\n')
                    continue
                reply = answer(message["execute"], message.get("arguments", {}))
                if reply is None:
                    break
                if not isinstance(reply, bytes):
                    reply = json.dumps({"return": reply, "id": message["id"]}).encode()
                writer.write(reply + b"\n")
        except ConnectionError:
            pass  # the client has left
        except Exception as error:
            defects.append(error)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, path):
        yield
        if serving:
            await asyncio.wait(serving)  # each task ends with its client
    if defects:
        raise defects[0]


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    decoder = _Decoder()
    while data := await reader.read(65536):
        for message in decoder.feed(data):
            yield message


class _Decoder:
    """Decodes a stream of JSON objects. QMP requires no line ends between them."""

    def __init__(self) -> None:
        self._received = ""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        self._received = (self._received + data.decode()).lstrip()
        while self._received:
            try:
                message, end = self._decoder.raw_decode(self._received)
            except json.JSONDecodeError:
                break
            self._received = self._received[end:].lstrip()
            yield message


_QUEUE: Final = 1
"""Length of QEMU's queue of waiting clients (chardev/char-socket.c)."""
_HUNG_UP: Final = select.POLLHUP | select.POLLRDHUP


class Refusal(dict[str, str]):
    """An answer that refuses a command with a reason."""

    def __init__(self, reason: str) -> None:
        super().__init__({"class": "GenericError", "desc": reason})


class LoneQmp:
    """Serves one client at a time, as QEMU does. Other clients wait in the socket's queue without a greeting.

    It runs in a thread during the `with` block, and does not wait for clients at the end.

    Args:
        path: Path of the socket.
        answer: Returns the answers, in that thread. Empty bytes mean no answer. An exception is raised again
            at the end of the block.
        greets: Whether clients are greeted.
    """

    def __init__(self, path: Path, answer: Answer, *, greets: bool = True) -> None:
        self._answer = answer
        self._greets = greets
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(_QUEUE)
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._defects: list[Exception] = []
        self._changed = threading.Condition()
        self._counted = False
        """Whether a client that waits for the current one has been counted."""
        self.commands = 0
        """Number of commands received."""
        self.accepted = 0
        """Number of clients accepted."""
        self.left = 0
        """Number of clients that left."""
        self.waited = 0
        """Number of clients that had to wait because another one was certainly connected."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._thread.join()
        self._listener.close()
        self._stopped.close()
        if self._defects:
            raise self._defects[0]

    async def until(self, reached: Callable[[], bool]) -> None:
        """Wait until a condition on the counts holds."""

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(reached, 30)

        assert await asyncio.to_thread(wait), (self.accepted, self.left, self.waited)

    def _run(self) -> None:
        while self._readable(self._listener):
            client, _ = self._listener.accept()
            with client:
                self._count(accepted=1)
                try:
                    self._serve(client)
                except ConnectionError:
                    pass  # the client has left
                except Exception as error:
                    self._defects.append(error)
            self._count(left=1)

    def _serve(self, client: socket.socket) -> None:
        decoder, self._counted = _Decoder(), False
        if self._greets:
            client.sendall(json.dumps(GREETING).encode() + b"\n")
        while self._wait_for_data(client):
            data, passed, _, _ = socket.recv_fds(client, 65536, 4)
            for fd in passed:
                socket.close(fd)
            if not data:
                return
            for message in decoder.feed(data):
                if not self._reply(client, message):
                    return

    def _wait_for_data(self, client: socket.socket) -> bool:
        """Wait for data from a client; return False if the block ends first. Count one waiting client."""
        while True:
            poll = select.poll()
            for each in (client, self._stopped, *(() if self._counted else (self._listener,))):
                poll.register(each, select.POLLIN)
            ready = [fd for fd, _ in poll.poll()]
            if self._stopped.fileno() in ready:
                return False
            if self._listener.fileno() in ready:
                # If this client had left before the other one came, the poll would show it.
                gone = select.poll()
                gone.register(client, _HUNG_UP)
                if not gone.poll(0):
                    self._counted = True
                    self._count(waited=1)
            if client.fileno() in ready:
                return True

    def _reply(self, client: socket.socket, message: dict[str, Any]) -> bool:
        """Answer a message; return whether the client stays connected."""
        reply: object = {}
        if message["execute"] != "qmp_capabilities":
            self._count(commands=1)
            reply = self._answer(message["execute"], message.get("arguments", {}))
        if reply is None:
            return False
        if not isinstance(reply, bytes):
            kind = "error" if isinstance(reply, Refusal) else "return"
            reply = json.dumps({kind: reply, "id": message.get("id")}).encode()
        if reply:  # empty bytes: no answer
            client.sendall(reply + b"\n")
        return True

    def _readable(self, what: socket.socket) -> bool:
        """Wait until it is readable or the block ends; return whether it is readable."""
        poll = select.poll()
        poll.register(what, select.POLLIN)
        poll.register(self._stopped, select.POLLIN)
        return self._stopped.fileno() not in [fd for fd, _ in poll.poll()]

    def _count(self, *, accepted: int = 0, left: int = 0, waited: int = 0, commands: int = 0) -> None:
        with self._changed:
            self.commands += commands
            self.accepted += accepted
            self.left += left
            self.waited += waited
            self._changed.notify_all()
