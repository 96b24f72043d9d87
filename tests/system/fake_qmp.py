"""A QMP server of the tests' own, that answers what it is told to answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

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
    """JSON objects, one after the other, with or without space between: no client needs to end its lines."""
    received, decoder = "", json.JSONDecoder()
    while data := await reader.read(65536):
        received = (received + data.decode()).lstrip()
        while received:
            try:
                message, end = decoder.raw_decode(received)
            except json.JSONDecodeError:
                break
            received = received[end:].lstrip()
            yield message
