"""The way to a server: requests made from the table, answers and problems made into values and errors again."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.certificates import PROCESS_NAME
from portlayer.model.errors import InvalidArgument, Unauthenticated, Unavailable
from portlayer.model.versions import read
from portlayer.rest import problems, tls
from portlayer.rest.calls import Call
from portlayer.rest.calls.call import JSON
from portlayer.rest.calls.service import HEALTH
from portlayer.rest.client import writing
from portlayer.rest.client.pulse import Pulse, Silent
from portlayer.rest.client.trail import trail
from portlayer.rest.client.wire import CONNECT_SECONDS, Answer, Garbled, Lost, Unreached, Wire
from portlayer.rest.liveness import ask_after
from portlayer.rest.message import Message
from portlayer.rest.passport import HEADER, Passport
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
        with self._translating():
            message = writing.message(call, caller, request)
        return await self.relay(caller, message)

    async def relay(self, caller: Caller, message: Message) -> bytes:
        """Send *message* for *caller*; the bytes of its answer, as `fetch` gives them."""
        if not self._retries:
            return await self._once_or_twice(caller, message)
        return await self._again(message.call, caller, lambda: self._once_or_twice(caller, message))

    async def _once_or_twice(self, caller: Caller, message: Message) -> bytes:
        with self._translating():
            try:
                return await self._sent(caller, message)
            except (aiohttp.ClientConnectorError, Unreached):
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, Lost):
                if not _repeatable(message.call, caller):
                    raise
            return await self._sent(caller, message)

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

    async def _sent(self, caller: Caller, message: Message) -> bytes:
        with self._felt():
            return await self._whole(caller, message)

    async def _whole(self, caller: Caller, message: Message) -> bytes:
        """The bytes of the answer."""
        call, target, told, body = message
        headers = {**told, **self._told(call, caller, target)}
        if call.consumes:
            headers["Content-Type"] = call.consumes
        if self._wire is None:
            async with await self._request(call, target, headers, body) as response:
                return await response.read()
        answer = await self._wire.ask(call.verb, target, headers, body)
        if _is_problem(answer):
            raise self._problem(answer.status, answer.body)
        return answer.body

    def _felt(self) -> AbstractContextManager[None]:
        """Another process of ours is asked for its health while it is waited for."""
        return self._pulse.felt() if self._pulse else nullcontext()

    async def _health(self) -> None:
        with entered(None):  # for many calls, of which none is the cause
            await self._whole(Caller(), Message(HEALTH, HEALTH.path, {}, None))

    async def open(
        self, call: Call[Q, Any], caller: Caller, request: Q, *, accept: str | None = None, data: Any = None
    ) -> aiohttp.ClientResponse:
        """Make *call*; the response, once its headers are there. Whoever takes it closes it."""

        async def ask() -> aiohttp.ClientResponse:
            with self._translating():
                target = writing.target(call, caller, request)
                headers = writing.headers(call, caller, request) | self._told(call, caller, target)
                if accept is not None:
                    headers["Accept"] = accept
                if call.consumes:
                    headers["Content-Type"] = call.consumes
                body = writing.body(call, request) if call.consumes and data is None else data
                with self._felt():
                    return await self._request(call, target, headers, body)

        once = data is not None  # what streams in is not there twice
        return await (ask() if once else self._again(call, caller, ask))

    async def websocket(
        self, call: Call[Q, Any], caller: Caller, request: Q, protocol: str
    ) -> aiohttp.ClientWebSocketResponse:
        """Make *call* as a WebSocket."""

        async def ask() -> aiohttp.ClientWebSocketResponse:
            with self._translating():
                target = writing.target(call, caller, request)
                headers = self._told(call, caller, target)
                with self._felt():
                    opened: aiohttp.ClientWebSocketResponse = await self._open_session().ws_connect(
                        self._url(target),
                        headers=headers,
                        protocols=(protocol,),
                        max_msg_size=_ATTACH_MESSAGE,
                        **self._security(),
                    )
                    return opened

        return await self._again(call, caller, ask)

    def give_up(self) -> None:
        """Whoever waits for an answer of another process of ours is told that none will come. Streams go on."""
        if self._pulse is not None:
            self._pulse.give_up()

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
        self, call: Call[Any, Any], target: str, headers: Mapping[str, str], data: Any
    ) -> aiohttp.ClientResponse:
        return await self._open_session().request(
            call.verb, self._url(target), headers=headers, data=data, allow_redirects=False, **self._security()
        )

    def _url(self, target: str) -> URL:
        return URL(self._base + target, encoded=True)

    def _security(self) -> dict[str, Any]:
        if self._path:
            return {}
        return {"ssl": self._contexts(), "server_hostname": PROCESS_NAME if self._passport else None}

    def _told(self, call: Call[Any, Any], caller: Caller, target: str) -> dict[str, str]:
        """Who calls, and what it is a part of."""
        return self._signed(call, caller, target) | trail(forwarded=self._passport is not None)

    def _signed(self, call: Call[Any, Any], caller: Caller, target: str) -> dict[str, str]:
        if self._passport is not None:
            return {HEADER: self._passport.sign(caller, call.verb, target)}
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

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
    """*body* as a value of type *kind*; a newer server may say more than that has."""
    try:
        return read(kind, body)
    except Unavailable as error:
        raise Unavailable(f"The answer is not of this version of the API: {error.__cause__}.") from error


async def pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes in. Raises Unavailable where it breaks off, which is not its end."""
    try:
        async for piece in response.content.iter_any():
            yield piece
    except (aiohttp.ClientError, OSError) as error:  # a network that was cut gives a TimeoutError, too
        raise Unavailable("The stream broke off; open it again.", retry_after_seconds=1) from error


def _token(token: str) -> str:
    if not token.isascii() or not token.isprintable():
        raise InvalidArgument("The token has characters that no token has.")  # which, nobody needs to see
    return token
