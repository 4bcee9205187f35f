"""One raw HTTP/1.1 client for every peer, so that none pays for its client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpError(RuntimeError):
    """An answer of 400 or more."""


class Client:
    """Keep-alive connections to a unix socket; as many as there are requests at the same time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[Connection] = []

    async def call(self, method: str, target: str, body: Any = None) -> Any:
        """Send *body* as JSON; the decoded answer, None where it is empty."""
        content = b"" if body is None else json.dumps(body).encode()
        answer = await self.send(method, target, content, "application/json")
        return json.loads(answer) if answer else None

    async def send(self, method: str, target: str, content: bytes, content_type: str) -> bytes:
        """Send bytes; the answer's body. Raises HttpError, or OSError and EOFError from the connection."""
        connection = self._idle.pop() if self._idle else await asyncio.open_unix_connection(str(self._path))
        reader, writer = connection
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: bench\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        try:
            status, headers = _parse(await reader.readuntil(b"\r\n\r\n"))
            answer = await _body(reader, status, headers)
        except BaseException:
            writer.close()
            raise
        if headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append(connection)
        if status >= 400:
            raise HttpError(f"{method} {target} answered {status}: {answer.decode(errors='replace')[:500]}")
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _body(reader: asyncio.StreamReader, status: int, headers: Mapping[str, str]) -> bytes:
    if status in (204, 304):
        return b""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    chunks = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(chunks)
