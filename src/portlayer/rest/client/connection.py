"""The way to a server: requests made from the table, answers and problems made into values and errors again."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.certificates import PROCESS_NAME
from portlayer.model.errors import InvalidArgument, NotFound, Unauthenticated, Unavailable
from portlayer.model.storage import Nothing
from portlayer.rest import problems, tls
from portlayer.rest.calls import Call, Place
from portlayer.rest.calls.call import JSON
from portlayer.rest.calls.service import HEALTH
from portlayer.rest.client.pulse import Pulse, Silent
from portlayer.rest.client.trail import trail
from portlayer.rest.client.wire import CONNECT_SECONDS, Answer, Garbled, Lost, Unreached, Wire
from portlayer.rest.liveness import ask_after
from portlayer.rest.passport import HEADER, Passport
from portlayer.rest.query import written
from portlayer.tracing import entered

A = TypeVar("A")
Q = TypeVar("Q", bound=Value)
T = TypeVar("T")
Contexts = Callable[[], ssl.SSLContext]

_BUFFER = 256 * 1024
_ATTACH_MESSAGE = 1024 * 1024
_logger = logging.getLogger(__name__)


class Fault(Exception):
    """A process of our own port layer has failed as it must not: a fault of ours to its caller, too."""


class Connection:
    """Connections to one server, kept open between calls.

    address: `unix:///path/of/socket`, or `https://host:port`.
    contexts: for https, asked for each request, so that certificates change under way: a new one opens connections of
    its own, and what goes on stays on the old ones; None: the system's trust, and no certificate of ours.
    passport: where both ends are processes of one port layer; it signs for the callers, and the other end has to prove
    that it is one. name: what errors call the other end. token: proves who calls.
    retries: how many times a call that does no harm twice is repeated, where the server says when to come again.
    """

    def __init__(
        self,
        address: str,
        contexts: Contexts | None = None,
        *,
        passport: Passport | None = None,
        name: str | None = None,
        retries: int = 0,
        token: str | None = None,
    ) -> None:
        self.address = address
        self._passport = passport
        self._name = name
        self._contexts = contexts or cache(lambda: tls.client_side(None))
        self._retries = retries
        self._path = address.removeprefix("unix://") if address.startswith("unix://") else None
        if self._path is None and not address.startswith("https://"):
            raise InvalidArgument(f"{address!r} is no address; use unix:///path or https://host:port.")
        self._base = "http://localhost" if self._path else address.rstrip("/")
        self._token = None if token is None else _token(token)
        self._session: aiohttp.ClientSession | None = None
        self._wire = Wire(self._path) if self._path else None
        self._pulse = Pulse(self._health) if name else None

    async def call(self, call: Call[Q, A], caller: Caller, request: Q) -> A:
        """Make *call* and decode its answer. Raises the taxonomy's errors, as the component raised them."""
        body = await self.fetch(call, caller, request)
        return decoded(call.answer, body) if body else None  # type: ignore[return-value]

    async def fetch(self, call: Call[Q, Any], caller: Caller, request: Q) -> bytes:
        """Make *call*; the bytes of its answer. One that may be repeated is, once, where the connection is lost."""
        return await self._again(call, caller, lambda: self._fetch_once_or_twice(call, caller, request))

    async def _fetch_once_or_twice(self, call: Call[Q, Any], caller: Caller, request: Q) -> bytes:
        with self._translating():
            try:
                return await self._fetch(call, caller, request)
            except (aiohttp.ClientConnectorError, Unreached):
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, Lost):
                if not _repeatable(call, caller):
                    raise
            return await self._fetch(call, caller, request)

    async def _again(self, call: Call[Q, Any], caller: Caller, ask: Callable[[], Awaitable[T]]) -> T:
        """What *ask* gives; asked again after the time that the server names, where that does no harm."""
        for _ in range(self._retries):
            try:
                return await ask()
            except Unavailable as error:
                seconds = error.facts.get("retry_after_seconds")
                if seconds is None or not (_repeatable(call, caller) or error.facts.get("refused")):
                    raise
                # Not all that were refused together come back together.
                await asyncio.sleep(seconds * random.uniform(1, 1.5))  # noqa: S311
        return await ask()

    async def _fetch(self, call: Call[Q, Any], caller: Caller, request: Q) -> bytes:
        async with self._felt():
            return await self._whole(call, caller, request)

    async def _whole(self, call: Call[Q, Any], caller: Caller, request: Q) -> bytes:
        """The bytes of the answer."""
        if self._wire is None:
            async with await self._request(call, caller, request) as response:
                return await response.read()
        url = self._url(call, caller, request)
        headers = _headers(call, caller, request) | self._told(call, caller, url)
        body = None
        if call.consumes:
            headers["Content-Type"] = call.consumes
            body = _body(call, request)
        answer = await self._wire.ask(call.verb, url.raw_path_qs, headers, body)
        if _is_problem(answer):
            raise self._problem(answer.status, answer.body)
        return answer.body

    def _felt(self) -> AbstractAsyncContextManager[None]:
        """Another process of ours is asked for its health while it is waited for."""
        return self._pulse.felt() if self._pulse else nullcontext()

    async def _health(self) -> None:
        with entered(None):  # for many calls, of which none is the cause
            await self._whole(HEALTH, Caller(), Nothing())

    async def open(
        self, call: Call[Q, Any], caller: Caller, request: Q, *, accept: str | None = None, data: Any = None
    ) -> aiohttp.ClientResponse:
        """Make *call*; the response, once its headers are there. Whoever takes it closes it."""

        async def ask() -> aiohttp.ClientResponse:
            with self._translating():
                async with self._felt():
                    return await self._request(call, caller, request, accept=accept, data=data)

        once = data is not None  # what streams in is not there twice
        return await (ask() if once else self._again(call, caller, ask))

    async def websocket(
        self, call: Call[Q, Any], caller: Caller, request: Q, protocol: str
    ) -> aiohttp.ClientWebSocketResponse:
        """Make *call* as a WebSocket."""

        async def ask() -> aiohttp.ClientWebSocketResponse:
            with self._translating():
                url = self._url(call, caller, request)
                headers = self._told(call, caller, url)
                async with self._felt():
                    opened: aiohttp.ClientWebSocketResponse = await self._open_session().ws_connect(
                        url, headers=headers, protocols=(protocol,), max_msg_size=_ATTACH_MESSAGE, **self._security()
                    )
                    return opened

        return await self._again(call, caller, ask)

    async def close(self) -> None:
        """Close all connections."""
        if self._pulse is not None:
            self._pulse.close()
        if self._wire is not None:
            self._wire.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector = (
                aiohttp.UnixConnector(self._path, limit=0)
                if self._path
                else aiohttp.TCPConnector(limit=0, socket_factory=_socket)
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                raise_for_status=self._raise_problem,
                auto_decompress=False,
                read_bufsize=_BUFFER,
            )
        return self._session

    async def _request(
        self, call: Call[Q, Any], caller: Caller, request: Q, *, accept: str | None = None, data: Any = None
    ) -> aiohttp.ClientResponse:
        headers = _headers(call, caller, request)
        if accept is not None:
            headers["Accept"] = accept
        if call.consumes:
            headers["Content-Type"] = call.consumes
            data = data if data is not None else _body(call, request)
        url = self._url(call, caller, request)
        headers |= self._told(call, caller, url)
        return await self._open_session().request(
            call.verb, url, headers=headers, data=data, allow_redirects=False, **self._security()
        )

    def _security(self) -> dict[str, Any]:
        if self._path:
            return {}
        return {"ssl": self._contexts(), "server_hostname": PROCESS_NAME if self._passport else None}

    def _told(self, call: Call[Q, Any], caller: Caller, url: URL) -> dict[str, str]:
        """Who calls, and what it is a part of."""
        return self._signed(call, caller, url) | trail(forwarded=self._passport is not None)

    def _signed(self, call: Call[Q, Any], caller: Caller, url: URL) -> dict[str, str]:
        if self._passport is not None:
            return {HEADER: self._passport.sign(caller, call.verb, url.raw_path_qs)}
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    def _url(self, call: Call[Q, Any], caller: Caller, request: Q) -> URL:
        segments = {name: _segment(caller.vch if name == "vch" else getattr(request, name)) for name in call.parameters}
        query = "&".join(
            f"{info.encode_name}={quote(text, safe='')}"
            for info in call.at(Place.QUERY)
            if (value := getattr(request, info.name)) not in (None, info.default)
            for text in written(value)
        )
        return URL(f"{self._base}{call.path.format(**segments)}{'?' if query else ''}{query}", encoded=True)

    async def _raise_problem(self, response: aiohttp.ClientResponse) -> None:
        """Problem documents become errors, also where a WebSocket was asked for; not-ready carries an answer."""
        if _is_problem(response):
            raise self._problem(response.status, await response.read())

    def _problem(self, status: int, body: bytes) -> Exception:
        if status == HTTPStatus.INTERNAL_SERVER_ERROR and self._passport is not None:
            return Fault(f"{self._name} failed in a way that it should not; its log says how")
        return problems.error_of(status, body)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, Unreached) as error:
            if why := tls.distrust(error):
                raise self._distrusted(why) from error
            if self._name:
                raise Unavailable(
                    f"{self._name} cannot be reached now.", retry_after_seconds=1, refused=True
                ) from error
            reason = getattr(error, "strerror", None) or str(error)
            raise Unavailable(
                f"No server answers at {self.address}: {reason}; is 'portlayer serve' running?"
            ) from error
        except Unauthenticated:
            if self._passport is None:
                raise
            # Its CA has just been changed, here or there: no matter of the caller's, who is known.
            raise Unavailable(
                f"{self._name} does not take this process's word now.", retry_after_seconds=1, refused=True
            ) from None
        except Silent:
            raise Unavailable(f"{self._name} does not answer now.", retry_after_seconds=1) from None
        except (aiohttp.ClientError, OSError) as error:
            if self._name:
                raise Unavailable(f"{self._name} went away before its answer.", retry_after_seconds=1) from error
            hint = (
                "" if self._path else " If it goes on, it may be that it does not take the certificate of this caller."
            )
            raise Unavailable(f"The connection to {self.address} was lost before the answer: {error}.{hint}") from error
        except Garbled as error:
            raise Unavailable(f"The answer is not of this version of the API: {error}.") from error
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"The request has text that is not Unicode: {error}.") from error

    def _distrusted(self, why: str) -> Unavailable:
        if self._name:
            _logger.error("%s is not trusted: %s", self._name, why)
            return Unavailable(f"{self._name} cannot be trusted now: {why}.", retry_after_seconds=1)
        return Unavailable(f"The server at {self.address} is not trusted: {why}. PORTLAYER_CA names the CAs that are.")


def _is_problem(answer: Answer | aiohttp.ClientResponse) -> bool:
    return answer.status >= HTTPStatus.BAD_REQUEST and answer.content_type != JSON


def _repeatable(call: Call[Any, Any], caller: Caller) -> bool:
    """Whether *call* may be sent again where its answer was lost: a creation, where its key gives the same answer."""
    return call.repeatable or (call.creates and caller.idempotency_key is not None)


def _socket(address: Any) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setblocking(False)
    ask_after(made)
    return made


def decoded(kind: Any, body: bytes) -> Any:
    """*body* as a value of type *kind*."""
    try:
        return _decoder(kind).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(f"The answer is not of this version of the API: {error}.") from error


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


async def pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes in. Raises Unavailable where it breaks off, which is not its end."""
    try:
        async for piece in response.content.iter_any():
            yield piece
    except (aiohttp.ClientError, OSError) as error:  # a network that was cut gives a TimeoutError, too
        raise Unavailable("The stream broke off; open it again.", retry_after_seconds=1) from error


def _segment(value: str) -> str:
    """*value* as one segment of a path; these three would make it another path."""
    if value in {"", ".", ".."}:
        raise NotFound(f"Nothing is called {value!r}.", id=value)
    return quote(value, safe="")


def _headers(call: Call[Q, Any], caller: Caller, request: Q) -> dict[str, str]:
    headers = {}
    if caller.idempotency_key is not None:
        headers["Idempotency-Key"] = _printable(caller.idempotency_key)
    for name, header in call.headers.items():
        value = getattr(request, name)
        if value is not None:
            headers[header] = value if value == "*" else f'"{_printable(value)}"'
    return headers


def _token(token: str) -> str:
    if not token.isascii() or not token.isprintable():
        raise InvalidArgument("The token has characters that no token has.")  # which, nobody needs to see
    return token


def _printable(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise InvalidArgument(f"{value!r} cannot be sent in a header; use printable ASCII.")
    return value


def _body(call: Call[Q, Any], request: Q) -> bytes:
    for info in call.at(Place.CONTENT):
        content: bytes = getattr(request, info.name)
        return content
    if call.body is call.request:
        return msgspec.json.encode(request)
    inside = {info.name: getattr(request, info.name) for info in call.at(Place.BODY)}
    return msgspec.json.encode(call.body(**inside)) if call.body else b""
