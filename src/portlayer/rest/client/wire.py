"""HTTP/1.1 over a unix socket for calls whose body and answer are whole: connections that are kept, and little else.

Most calls between processes of a port layer take less time than a full client would for them. What streams, upgrades
or is encrypted goes by aiohttp.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Mapping
from typing import NamedTuple, cast

CONNECT_SECONDS = 5.0
_IDLE_SECONDS = 15.0
_HEAD_BYTES = 64 * 1024
_END = b"\r\n\r\n"
_WITHOUT_BODY = frozenset({204, 304})


class Unreached(OSError):
    """Nobody listens, so nothing was sent."""


class Lost(OSError):
    """The connection ended before the whole answer was there."""


class Garbled(Exception):
    """What came is no answer as our servers give it."""


class Answer(NamedTuple):
    """content_type: without its parameters, in small letters."""

    status: int
    content_type: str
    body: bytes


class Wire:
    """Connections to the socket at *path*, one for each call that is under way; the last used is used next, and those
    that a burst has left are closed some time after it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle = collections.deque[_Line]()
        self._open: set[_Line] = set()

    async def ask(self, verb: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """Send one request. Raises Unreached, Lost and Garbled."""
        head = [f"{verb} {target} HTTP/1.1", "Host: localhost", *(f"{name}: {headers[name]}" for name in headers)]
        if body is not None:
            head.append(f"Content-Length: {len(body)}")
        line = self._kept() or await self._connected()
        try:
            answer = await line.ask("\r\n".join((*head, "", "")).encode() + (body or b""))
        except BaseException:
            line.close()
            raise
        if line.lasts:
            line.idle_since = line.loop.time()
            self._idle.append(line)
        else:
            line.close()
        return answer

    def close(self) -> None:
        """Close all connections; who waits for an answer has lost it."""
        for line in list(self._open):
            line.close()
        self._idle.clear()

    def _kept(self) -> _Line | None:
        long_ago = asyncio.get_running_loop().time() - _IDLE_SECONDS
        while self._idle and self._idle[0].idle_since < long_ago:
            self._idle.popleft().close()
        while self._idle:
            line = self._idle.pop()
            if line.lasts:
                return line
        return None

    async def _connected(self) -> _Line:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, line = await loop.create_unix_connection(lambda: _Line(loop, self._open), self._path)
        except TimeoutError:
            raise Unreached(None, "it takes no connection") from None
        except OSError as error:
            raise Unreached(error.errno, error.strerror or str(error)) from error
        return line


class _Line(asyncio.Protocol):
    """One connection. lasts: whether it can be used again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, opened: set[_Line]) -> None:
        self.loop = loop
        self.lasts = True
        self.idle_since = 0.0
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._came = bytearray()
        self._head: tuple[int, str, int] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send *request*; its answer."""
        if self._transport is None:
            raise Lost(None, "it was closed")
        self._waiting = self.loop.create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        """Use it no more."""
        self.lasts = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._opened.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lasts = False
        self._transport = None
        self._opened.discard(self)
        self._fail(Lost(None, str(exc) if exc else "the server disconnected"))

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            self.close()  # nobody has asked
            return
        self._came += data
        try:
            if self._head is None:
                self._read_head()
            if self._head is not None:
                self._read_body(*self._head)
        except ValueError as error:
            self._fail(Garbled(str(error)))
            self.close()

    def _read_head(self) -> None:
        end = self._came.find(_END)
        if end < 0:
            if len(self._came) > _HEAD_BYTES:
                raise ValueError("the head of the answer has no end")
            return
        first, *lines = self._came[:end].decode("latin-1").split("\r\n")
        del self._came[: end + len(_END)]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first[9:12])
        if headers.get("connection", "").lower() == "close" or not first.startswith("HTTP/1.1 "):
            self.lasts = False
        length = 0 if status in _WITHOUT_BODY else int(headers.get("content-length", "-1"))
        if length < 0:
            raise ValueError("it does not say its length")
        self._head = status, headers.get("content-type", "").partition(";")[0].strip().lower(), length

    def _read_body(self, status: int, content_type: str, length: int) -> None:
        if len(self._came) < length:
            return
        body = bytes(self._came[:length])
        if len(self._came) > length:
            self.lasts = False  # more than was asked for
        self._came.clear()
        self._head = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer(status, content_type, body))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
