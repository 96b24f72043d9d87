"""A QMP server of the tests' own, that answers what it is told to answer."""

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
"""Of a command and its arguments: the value to return; bytes to send as they are; None to hang up."""


@contextlib.asynccontextmanager
async def fake_qmp(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Serve QMP on a socket as long as the block lasts; all clients must have gone by its end.

    Args:
        path: Of the socket.
        answer: Says what to answer; negotiation is not its business.
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
                said = answer(message["execute"], message.get("arguments", {}))
                if said is None:
                    break
                if not isinstance(said, bytes):
                    said = json.dumps({"return": said, "id": message["id"]}).encode()
                writer.write(said + b"\n")
        except ConnectionError:
            pass  # the client had enough
        except Exception as error:
            defects.append(error)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async with await asyncio.start_unix_server(serve, path):
        yield
        if serving:
            await asyncio.wait(serving)  # each ends with its client
    if defects:
        raise defects[0]


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    decoder = _Decoder()
    while data := await reader.read(65536):
        for message in decoder.feed(data):
            yield message


class _Decoder:
    """JSON objects, one after the other, with or without space between: no client needs to end its lines."""

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
"""As many as QEMU lets wait (chardev/char-socket.c)."""
_HUNG_UP: Final = select.POLLHUP | select.POLLRDHUP


class Refusal(dict[str, str]):
    """An answer: that the command is refused, and why."""

    def __init__(self, why: str) -> None:
        super().__init__({"class": "GenericError", "desc": why})


class LoneQmp:
    """Serves one client at a time, as QEMU does: the others wait in the socket's queue, ungreeted.

    It runs in a thread inside the `with` block; a client need not have gone at its end.

    Args:
        path: Of the socket.
        answer: Says what to answer, in that thread; no bytes are no answer. An exception is raised again at
            the end.
        greets: Whether a client is greeted at all.
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
        self.asked = 0
        """Commands that have come."""
        self.came = 0
        """Clients that have come."""
        self.left = 0
        """Clients that have gone."""
        self.waited = 0
        """Clients that had to wait: they came while another was surely connected."""

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
        """Wait until the counts are such."""

        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(reached, 30)

        assert await asyncio.to_thread(wait), (self.came, self.left, self.waited)

    def _run(self) -> None:
        while self._readable(self._listener):
            client, _ = self._listener.accept()
            with client:
                self._count(came=1)
                try:
                    self._serve(client)
                except ConnectionError:
                    pass  # the client had enough
                except Exception as error:
                    self._defects.append(error)
            self._count(left=1)

    def _serve(self, client: socket.socket) -> None:
        decoder, counted = _Decoder(), False
        if self._greets:
            client.sendall(json.dumps(GREETING).encode() + b"\n")
        while True:
            poll = select.poll()
            for each in (client, self._stopped, *(() if counted else (self._listener,))):
                poll.register(each, select.POLLIN)
            ready = [fd for fd, _ in poll.poll()]
            if self._stopped.fileno() in ready:
                return
            if self._listener.fileno() in ready and not counted:
                # Had this one gone before the other came, that would be seen by now.
                gone = select.poll()
                gone.register(client, _HUNG_UP)
                if not gone.poll(0):
                    counted = True
                    self._count(waited=1)
            if client.fileno() not in ready:
                continue
            data, passed, _, _ = socket.recv_fds(client, 65536, 4)
            for fd in passed:
                socket.close(fd)
            if not data:
                return
            for message in decoder.feed(data):
                said: object = {}
                if message["execute"] != "qmp_capabilities":
                    self._count(asked=1)
                    said = self._answer(message["execute"], message.get("arguments", {}))
                if said is None:
                    return
                if not isinstance(said, bytes):
                    kind = "error" if isinstance(said, Refusal) else "return"
                    said = json.dumps({kind: said, "id": message.get("id")}).encode()
                if said:  # nothing is no answer
                    client.sendall(said + b"\n")

    def _readable(self, what: socket.socket) -> bool:
        """Wait until it is, or the block has ended."""
        poll = select.poll()
        poll.register(what, select.POLLIN)
        poll.register(self._stopped, select.POLLIN)
        return self._stopped.fileno() not in [fd for fd, _ in poll.poll()]

    def _count(self, *, came: int = 0, left: int = 0, waited: int = 0, asked: int = 0) -> None:
        with self._changed:
            self.asked += asked
            self.came += came
            self.left += left
            self.waited += waited
            self._changed.notify_all()
