"""The short way in: requests that came whole, for calls whose answer is whole, answered without a full HTTP server.

Nearly all requests are so, and take a third less time this way. Nothing is judged here: what is not plainly such a
request is handed over to aiohttp, with its connection, byte by byte as it came, and stays there.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Protocol, cast

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from portlayer.rest.liveness import ask_after
from portlayer.rest.server.load import Load

_HEAD = re.compile(
    rb"(GET|POST|PUT|PATCH|DELETE) (/[!\"$-~]*) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n){1,64})\r\n"
)
_MOST_HEAD = 8 * 1024
_LENGTH = re.compile("[0-9]{1,9}")
_LONG = frozenset({"transfer-encoding", "upgrade", "expect", "sec-websocket-key"})
"""Headers of requests that are not whole, or are more than requests."""
_BUFFER = 256 * 1024


class Answers(Protocol):
    """Whose requests are answered so."""

    def is_whole(self, http: web.BaseRequest, /) -> bool:
        """Whether the call that is asked for takes no more than what can be here, and answers with one body."""

    def __call__(self, http: web.BaseRequest, /) -> Awaitable[web.StreamResponse]: ...


class QuickRequest(web.BaseRequest):
    """A request that is here with its whole body. To whoever answers it, it is as any other."""

    def __init__(self, connection: Quick, method: str, target: str, headers: CIMultiDict[str], body: bytes) -> None:
        self._protocol = cast("Any", connection)
        self._method = method
        self._target = target
        self._headers = CIMultiDictProxy(headers)
        self._state = {}
        self._cache = {}
        self._read_bytes = body

    @property
    def raw_path(self) -> str:
        return self._target

    @property
    def content(self) -> Any:
        return _AT_ITS_END

    @property
    def body_exists(self) -> bool:
        return bool(self._read_bytes)

    @property
    def can_read_body(self) -> bool:
        return False


class _AtItsEnd:
    """A body of which nothing is still to come."""

    def is_eof(self) -> bool:
        return True


_AT_ITS_END = _AtItsEnd()


class Quick(asyncio.Protocol):
    """A connection, until it is handed over. full: makes what it is handed over to. opened: all of these."""

    def __init__(
        self, answers: Answers, load: Load, full: Callable[[], web.RequestHandler], opened: set[Quick]
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None
        self._answers = answers
        self._load = load
        self._full = full
        self._opened = opened
        self._came = bytearray()
        self._closing = False
        self._unread = False

    def close(self) -> None:
        """Close it when it has answered."""
        self._closing = True
        if self.task is None:
            self.force_close()

    def force_close(self) -> None:
        """Close it now; what is written is still sent."""
        if self.transport is not None:
            self.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        ask_after(transport.get_extra_info("socket"))
        self._opened.add(self)
        self._load.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._gone()
        if self.task is not None:
            self.task.cancel()

    def pause_writing(self) -> None:
        self._unread = True  # who does not read is not answered any more
        if self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread = False
        if self.transport is not None:
            self.transport.resume_reading()
            self._go_on()

    def data_received(self, data: bytes) -> None:
        if self.task is None and not self._unread:
            self._begin(data)
            return
        self._came += data
        if len(self._came) > _BUFFER and self.transport is not None:
            self.transport.pause_reading()

    def _gone(self) -> None:
        self.transport = None
        self._opened.discard(self)
        self._load.disconnected(self)

    def _begin(self, data: bytes) -> None:
        """Answer what came, where it is one request."""
        request = self._read(data)
        if request is None or not self._answers.is_whole(request):
            self._hand_over(data)
            return
        self.task = asyncio.get_running_loop().create_task(self._answer(request))

    def _read(self, data: bytes) -> QuickRequest | None:
        found = _HEAD.match(data, 0, _MOST_HEAD)
        if found is None:
            return None
        headers: CIMultiDict[str] = CIMultiDict()
        for line in found[3].decode("ascii").split("\r\n")[:-1]:
            name, _, value = line.partition(":")
            if name in headers:
                return None
            headers[name] = value.strip(" \t")
        if any(name.lower() in _LONG for name in headers):
            return None
        length = headers.get("Content-Length", "0")
        if headers.get("Connection", "keep-alive").lower() != "keep-alive" or _LENGTH.fullmatch(length) is None:
            return None
        body = data[found.end() :]
        if len(body) != int(length):
            return None
        return QuickRequest(self, found[1].decode(), found[2].decode(), headers, bytes(body))

    def _hand_over(self, data: bytes) -> None:
        transport, full = self.transport, self._full()
        if transport is None or transport.is_closing():
            return
        self._gone()
        transport.set_protocol(full)
        full.connection_made(transport)
        full.data_received(data)

    async def _answer(self, request: QuickRequest) -> None:
        try:
            response = cast("web.Response", await self._answers(request))
        except BaseException:  # which is no answer: nobody is to wait for one
            self.force_close()
            raise
        if self.transport is None:
            return
        last = self._closing or response.keep_alive is False
        self.transport.write(_written(response, last=last))
        self.task = None
        if last:
            self.force_close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Begin with what came meanwhile. A connection is never handed over while its answers are unread: whoever takes
        it would not know, and go on writing."""
        if self.transport is None or self.transport.is_closing() or self.task is not None or self._unread:
            return
        if self._came:
            came = bytes(self._came)
            self._came.clear()
            self.transport.resume_reading()
            self._begin(came)


def _written(response: web.Response, *, last: bool) -> bytes:
    """*response* as it is sent."""
    body = response.body or b""
    head = [
        f"HTTP/1.1 {response.status} {response.reason}",
        *(f"{name}: {response.headers[name]}" for name in response.headers),
    ]
    if response.status != 204:
        head.append(f"Content-Length: {len(cast('bytes', body))}")
    head.append(f"Date: {_date(int(time.time()))}")
    if last:
        head.append("Connection: close")
    return "\r\n".join((*head, "", "")).encode() + cast("bytes", body)


@lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
