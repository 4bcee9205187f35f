"""The server: sockets, and the orderly end."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from portlayer.interfaces.authority import Authority
from portlayer.interfaces.components import Components
from portlayer.metrics import Metrics
from portlayer.model.access import Identity
from portlayer.model.bounds import HttpBounds
from portlayer.model.errors import InUse, InvalidArgument
from portlayer.rest.passport import Passport
from portlayer.rest.server.answers import problem_answer
from portlayer.rest.server.audit import Audit
from portlayer.rest.server.content import MAX_BODY
from portlayer.rest.server.dispatch import Dispatcher
from portlayer.rest.server.identity import Peers
from portlayer.rest.server.listening import TlsListener, UnixListener, bound
from portlayer.rest.server.load import Load
from portlayer.rest.server.quick import Quick
from portlayer.tracing import Tracer

_logger = logging.getLogger(__name__)
_LAST_SECONDS = 1.0
Contexts = Callable[[], ssl.SSLContext]


class Server:
    """The REST API of *components*, on any number of sockets.

    here, passport: see Dispatcher. users: who else than root is known on a unix socket, by uid; peers: another way to
    find out who calls; authority: knows bearer tokens. Neither an aiohttp Application nor its routes are used: the
    table routes, and one handler answers all.
    """

    def __init__(
        self,
        components: Components,
        here: Components | None = None,
        passport: Passport | None = None,
        bounds: HttpBounds | None = None,
        *,
        users: Mapping[int, Identity] | None = None,
        peers: Peers | None = None,
        authority: Authority | None = None,
        audit: Audit | None = None,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._audit = audit or Audit()
        self._dispatcher = Dispatcher(
            components,
            here,
            passport,
            bounds,
            peers=peers or Peers(users),
            authority=authority,
            audit=self._audit,
            metrics=metrics,
            tracer=tracer,
        )
        self._connections: _ProblemServer | None = None
        self._paths: dict[Path, int] = {}
        self._listeners: list[UnixListener | TlsListener] = []
        self._lent: list[UnixListener | TlsListener] = []

    async def listen_unix(self, path: str | Path, mode: int = 0o600) -> None:
        """Listen at *path*. A socket that nobody serves any more is replaced.

        Raises:
            InUse: another server answers there. InvalidArgument: something else is there, or the path is too long.
        """
        path = Path(path)
        await _check_free(path)
        listening = _bound(path, mode)
        self._paths[path] = path.stat().st_ino
        self._listeners.append(await self._serve(listening))

    async def listen_socket(self, listening: socket.socket, contexts: Contexts | None = None) -> None:
        """Serve a socket that somebody else has bound, and keeps for whoever comes after us.

        contexts: for TLS, without which only unix sockets are served. Raises InvalidArgument for others.
        """
        if listening.family == socket.AF_UNIX:
            self._lent.append(await self._serve(listening))
        elif contexts is not None:
            self._lent.append(TlsListener(listening, self._met(), contexts))
        else:
            raise InvalidArgument("TCP is served with TLS alone; give this process an https address.")

    async def listen_tls(self, host: str, port: int, contexts: Contexts) -> int:
        """Listen at *host*, a name or an address, with TLS; the port, which is chosen where *port* is 0.

        contexts: what a new connection is met with, as of then. Raises InvalidArgument where nothing can listen there.
        """
        listener = TlsListener(bound(host, port), self._met(), contexts)
        self._listeners.append(listener)
        return listener.port

    async def drain(self, seconds: float = 30.0, *, notice_seconds: float = 0.0) -> None:
        """Stop in good order.

        For *notice_seconds* it says that it is not ready, and answers all the same. Then new calls are refused, with
        the time to come again, and streams end with a cursor; what is being changed has *seconds* to come to its end.
        At last all connections are closed. Sockets that others keep are left at once: who comes there waits for
        whoever serves them next.
        """
        shared = self._dispatcher.shared
        shared.leaving.set()
        if self._connections is None:
            return
        await asyncio.sleep(notice_seconds)
        shared.draining.set()
        await asyncio.gather(*(one.stop() for one in self._lent))
        if shared.acting:
            _, left = await asyncio.wait(shared.acting, timeout=seconds)
            if left:
                _logger.warning("%d calls are left unfinished after %g seconds", len(left), seconds)
        await asyncio.gather(*(one.stop() for one in self._listeners))
        self._listeners.clear()
        self._lent.clear()
        self._remove_sockets()
        for transport in tuple(shared.cut_at_drain):
            transport.abort()
        self._connections.pre_shutdown()
        await self._connections.shutdown(_LAST_SECONDS)
        self._audit.close()
        self._connections = None

    async def _serve(self, listening: socket.socket) -> UnixListener:
        listener = UnixListener(listening, self._met())
        await listener.start()
        return listener

    def _met(self) -> _ProblemServer:
        """What makes connections of those who come."""
        if self._connections is None:
            self._connections = _ProblemServer(self._dispatcher)
        return self._connections

    def _remove_sockets(self) -> None:
        for path, inode in self._paths.items():
            if path.exists() and path.stat().st_ino == inode:
                path.unlink()
        self._paths.clear()


class _ProblemProtocol(web.RequestHandler):
    """Answers what is not even HTTP with a problem document too, and tells *load* when it comes and goes."""

    __slots__ = ("_load",)

    def __init__(self, manager: web.Server, load: Load) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # the dispatcher logs
            auto_decompress=False,
        )
        self._load = load

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._load.connected(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._load.disconnected(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002  (aiohttp's signature)
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error = InvalidArgument(f"This is not HTTP: {message or 'malformed request'}.") if status < 500 else exc
        response = problem_answer(error if isinstance(error, Exception) else RuntimeError(message))
        response.force_close()
        return response


class _ProblemServer(web.Server):
    """A handler is cancelled when its caller goes: waits and streams end; what acts is shielded by the dispatcher."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__(dispatcher, request_factory=_request, handler_cancellation=True)
        self._dispatcher = dispatcher
        self._quick: set[Quick] = set()

    def __call__(self) -> Any:
        """A new connection. It begins as one of the short way."""
        return Quick(self._dispatcher, self._dispatcher.load, self._full, self._quick)

    def _full(self) -> web.RequestHandler:
        return _ProblemProtocol(self, self._dispatcher.load)

    def pre_shutdown(self) -> None:
        super().pre_shutdown()
        for connection in tuple(self._quick):
            connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  (aiohttp's signature)
        await super().shutdown(timeout)
        tasks = [connection.task for connection in self._quick if connection.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
        for connection in tuple(self._quick):
            connection.force_close()


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


async def _check_free(path: Path) -> None:
    if not _is_socket(path):
        return
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return
    writer.close()
    raise InUse(f"A server answers at {path} already; stop it or choose another path.", kind="socket", id=str(path))


def _is_socket(path: Path) -> bool:
    if not path.exists():
        return False
    if not path.is_socket():
        raise InvalidArgument(f"{path} is there and is no socket; move it away or choose another path.")
    return True


def _bound(path: Path, mode: int) -> socket.socket:
    """A socket at *path*: bound beside it, then moved, so that it never has other rights and never is not there."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(beside))
        beside.chmod(mode)
        beside.replace(path)
    except OSError as error:
        listening.close()
        beside.unlink(missing_ok=True)
        raise InvalidArgument(f"No socket can be made at {path}: {error}.") from error
    return listening
