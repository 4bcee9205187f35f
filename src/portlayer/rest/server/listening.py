"""Listening. On a unix socket; and with TLS, where handshakes that take too long, or are too many, cost no more than
themselves."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
import ssl
from collections.abc import Callable

from aiohttp import web

from portlayer.model.errors import InvalidArgument

HANDSHAKE_SECONDS = 10.0
MOST_HANDSHAKES = 256
"""At once; beyond, the oldest one goes, since those that mean it take a moment."""
_SHUTDOWN_SECONDS = 2.0
_PAUSE_SECONDS = 0.1
_TURNS_OF_ACCEPTING = 3
"""Of the event loop, from the accept(2) to the call of `connection_made`."""
_BACKLOG = 1024
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_logger = logging.getLogger(__name__)


class UnixListener:
    """Serves who comes to *listening* by *server*."""

    def __init__(self, listening: socket.socket, server: web.Server) -> None:
        self._listening = listening
        self._server = server
        self._accepting: asyncio.Server

    async def start(self) -> None:
        self._accepting = await asyncio.get_running_loop().create_unix_server(
            self._server, sock=self._listening, backlog=_BACKLOG
        )

    async def stop(self) -> None:
        """Accept nothing any more; who has been accepted is the server's.

        CPython before 3.12 drops a connection that is accepted just when its server is closed: nobody would ever
        close it, and who waits there would wait on.
        """
        asyncio.get_running_loop().remove_reader(self._listening)
        for _ in range(_TURNS_OF_ACCEPTING):
            await asyncio.sleep(0)
        self._accepting.close()


class TlsListener:
    """Hands connections from *listening* to *server* once they have shaken hands.

    contexts: what new connections are met with, asked for each of them, so that certificates change under way.
    """

    def __init__(
        self,
        listening: socket.socket,
        server: web.Server,
        contexts: Callable[[], ssl.SSLContext],
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._server = server
        self._contexts = contexts
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._accepting = asyncio.create_task(self._accept())

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    async def stop(self) -> None:
        """Accept nothing any more; who has shaken hands is the server's."""
        self._accepting.cancel()
        tasks = [self._accepting, *self._handshakes]
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                if error.errno in _EXHAUSTED:  # else who came has gone again
                    _logger.error("no connection can be accepted: %s", error)  # noqa: TRY400
                    await asyncio.sleep(_PAUSE_SECONDS)
                continue
            while len(self._handshakes) >= MOST_HANDSHAKES:
                oldest = next(iter(self._handshakes))
                oldest.cancel()
                del self._handshakes[oldest]
            task = asyncio.create_task(self._meet(connection))
            self._handshakes[task] = None
            task.add_done_callback(functools.partial(self._met, connection))
            await asyncio.sleep(0)  # however many come, the others have their turn

    async def _meet(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().connect_accepted_socket(
            self._server,
            connection,
            ssl=self._contexts(),
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
        )

    def _met(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():
            connection.close()
        elif (error := task.exception()) is not None:
            connection.close()
            unlike = not isinstance(error, OSError)  # TLS's errors are some of these
            _logger.log(logging.ERROR if unlike else logging.DEBUG, "a handshake has failed: %s", error)


def bound(host: str, port: int) -> socket.socket:
    """A TCP socket that listens; on `::`, for IPv4 too. Raises InvalidArgument where that cannot be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::")
    except OSError as error:
        raise InvalidArgument(f"Nothing can listen at {host} port {port}: {error}.") from error
