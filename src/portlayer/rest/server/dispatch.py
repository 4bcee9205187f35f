"""From any HTTP request to its answer: route, decode, call the component, encode."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from aiohttp import web

from portlayer import tracing
from portlayer.interfaces.authority import Authority
from portlayer.interfaces.components import AT_THE_CONTAINER, Components, Relay
from portlayer.metrics import Metrics
from portlayer.model.access import Identity, decide, without_secrets
from portlayer.model.bounds import HttpBounds
from portlayer.model.caller import DEFAULT_VCH, Caller
from portlayer.model.errors import InvalidArgument, PortlayerError, Unauthenticated, Unavailable, Unsupported
from portlayer.model.versions import UPGRADE_SECONDS
from portlayer.rest import passport
from portlayer.rest.calls import CALLS, Call
from portlayer.rest.calls.compose import COMPOSE
from portlayer.rest.calls.service import HEALTH, METRICS_TEXT, READY
from portlayer.rest.message import Message
from portlayer.rest.passport import Passport
from portlayer.rest.problems import TABLE
from portlayer.rest.server import execution, interaction, service, storage
from portlayer.rest.server.answers import Refused, json_answer, problem_answer, written_answer
from portlayer.rest.server.audit import Audit
from portlayer.rest.server.decode import Decoder, idempotency_key
from portlayer.rest.server.doings import Doing, doing_of
from portlayer.rest.server.exchange import Exchange, Handler, Shared
from portlayer.rest.server.figures import Figures
from portlayer.rest.server.identity import Peers
from portlayer.rest.server.load import Load
from portlayer.rest.server.requestid import HEADER as REQUEST_ID
from portlayer.rest.server.requestid import request_id
from portlayer.rest.server.router import Router
from portlayer.scope import scope
from portlayer.tracing import Span, Tracer, Untraced

_logger = logging.getLogger(__name__)

SPECIAL: dict[Call[Any, Any], Handler] = {
    **service.HANDLERS,
    **storage.HANDLERS,
    **execution.HANDLERS,
    **interaction.HANDLERS,
}
"""The calls that are more than decode, call, encode."""
VITAL = frozenset({HEALTH, READY, METRICS_TEXT})
"""Always answered, however much there is to do."""
_UNTRACED = Untraced()


class _Route(NamedTuple):
    """Which call a request is, and what its path says."""

    call: Call[Any, Any]
    parameters: dict[str, str]


_ROUTE = web.RequestKey("route", object)
_Asked = tuple[Identity | None, Caller, Components]
"""Who asks, None where another process of ours vouches or nobody has to be known; the caller; whom to ask for them."""


class Dispatcher:
    """The handler of all requests. Whatever goes wrong, the answer is a problem document.

    components: some of which may be in other processes. here: the same for what another process has forwarded, whose
    word on who calls is taken by *passport*: those that are elsewhere refuse, for there is one hop. bounds: what is
    answered at once. peers: finds out who calls; by default root alone is known; authority: knows
    bearer tokens, which go before what is known of the connection. audit: is told of changes and
    refusals. metrics, tracer: are told of all requests.
    """

    def __init__(
        self,
        components: Components,
        here: Components | None = None,
        passport: Passport | None = None,
        bounds: HttpBounds | None = None,
        *,
        peers: Peers | None = None,
        authority: Authority | None = None,
        audit: Audit | None = None,
        metrics: Metrics | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._peers = peers or Peers()
        self._authority = authority
        self._audit = audit or Audit()
        self.shared = Shared()
        self.load = Load(bounds or HttpBounds())
        self._figures = Figures(metrics or Metrics(), self.load)
        self._tracer = tracer or _UNTRACED
        self._components = components
        self._here = here or components
        self._passport = passport
        self._router = Router(CALLS)
        self._decoders = {call: Decoder(call) for call in CALLS}
        self._relays = {call: relay for call in CALLS if (relay := _relay(components, call)) is not None}

    def is_whole(self, http: web.BaseRequest) -> bool:
        """Whether *http* is for a call that is `whole`; False for what leads nowhere, too."""
        route = http[_ROUTE] = self._route(http)
        return isinstance(route, _Route) and route.call.whole

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        began = time.monotonic()
        route = http.get(_ROUTE) or self._route(http)
        call = None if isinstance(route, Exception) else route.call
        with (
            self.load.using(http.protocol),
            scope(request=request_id(http), vch=route.parameters.get("vch", "") if isinstance(route, _Route) else ""),
            self._traced(http, call) as span,
            self._figures.answering(call) as told,
        ):
            response = await _answered(self._respond(http, route))
            told.status = response.status
            span.note("http.response.status_code", response.status)
            self._close(http, response, began)
        return response

    def _close(self, http: web.BaseRequest, response: web.StreamResponse, began: float) -> None:
        """The last of a request: its id, and a line in the log."""
        if not response.prepared:
            response.headers[REQUEST_ID] = request_id(http)
        if self.shared.draining.is_set():
            response.force_close()
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug(
                "request",
                extra={
                    "method": http.method,
                    "target": without_secrets(http.raw_path.partition("?")[0]),
                    "status": response.status,
                    "seconds": time.monotonic() - began,
                },
            )

    def _route(self, http: web.BaseRequest) -> _Route | Exception:
        """Where the request goes, or why nowhere."""
        path, _, query = http.raw_path.partition("?")
        if not path.isascii() or not query.isascii():
            return InvalidArgument("The URL has bytes that are not ASCII; percent-encode them as UTF-8.")
        try:
            return _Route(*self._router.resolve(http.method, path))
        except (PortlayerError, Refused) as error:
            return error

    def _traced(self, http: web.BaseRequest, call: Call[Any, Any] | None) -> AbstractContextManager[Span]:
        """What the request causes is part of its caller's trace. That somebody looks after us is worth none."""
        tracer = self._tracer if call is not None and call not in VITAL else _UNTRACED
        return tracer.request(call.name if call else "", tracing.read(http.headers.get(tracing.HEADER)))

    async def _respond(self, http: web.BaseRequest, route: _Route | Exception) -> web.StreamResponse:
        if isinstance(route, Exception):
            if said := http.headers.get(passport.HEADER):
                await self._forwarded(http, said)
                raise _newer(route) from route
            raise route
        call, parameters = route
        if self.shared.draining.is_set() and call not in VITAL:
            raise _stopping()
        path, vch = http.raw_path.partition("?")[0], parameters.get("vch", "")
        asked = await self._admitted(http, call, path, parameters)
        if call.unsupported:
            raise Unsupported(f"{call.verb} {path[:200]} is not offered: {call.unsupported}.", option=call.name)
        if call in VITAL:
            return await self._answer(http, call, parameters, asked)
        with self.load.answering(vch):
            return await self._in_turn(http, call, parameters, asked)

    async def _in_turn(
        self, http: web.BaseRequest, call: Call[Any, Any], parameters: dict[str, str], asked: _Asked
    ) -> web.StreamResponse:
        """The answer; fair between VCHs in what is short, while others are at work."""
        turns, vch = self.shared.turns, asked[1].vch
        if call.short:
            with turns.work(vch):
                async with turns.turn(vch):
                    return await self._answer(http, call, parameters, asked)
        with turns.work(vch) if call.acts and "vch" in call.parameters else nullcontext():
            return await self._answer(http, call, parameters, asked)

    async def _answer(
        self, http: web.BaseRequest, call: Call[Any, Any], parameters: dict[str, str], asked: _Asked
    ) -> web.StreamResponse:
        identity, caller, components = asked
        query = http.raw_path.partition("?")[2]
        try:
            request = await self._decoders[call].decode(http, parameters, query)
        except InvalidArgument as error:
            if identity is None:
                raise _newer(error) from error
            raise
        if call.acts and self.shared.draining.is_set():
            raise _stopping()  # the drain waits for what has begun, and for nothing that begins now
        work: Awaitable[web.StreamResponse]
        if components is self._components and call in self._relays:
            message = Message(call, http.raw_path, {}, await self._decoders[call].body(http))
            work = _relayed(self._relays[call], caller, message)
        else:
            work = SPECIAL.get(call, _plain)(Exchange(self.shared, components, http, call, caller, request))
        if identity is not None and call.lasts:
            work = self._while_good(work, identity, http)
        if identity is not None and call.audited:
            work = self._told(work, identity, call, caller.vch, http)
        return await (self._finished(work, call, caller.vch) if call.acts else work)

    async def _admitted(
        self, http: web.BaseRequest, call: Call[Any, Any], path: str, parameters: dict[str, str]
    ) -> _Asked:
        """Who calls, taking the VCH out of *parameters*."""
        if forwarded := http.headers.get(passport.HEADER):
            try:
                caller = await self._forwarded(http, forwarded)
            except Unauthenticated as error:
                self._refused(None, http, call, path, parameters, error)
                raise
            parameters.pop("vch", None)
            return None, caller, self._behind(call)
        identity = await self._identity(http)
        return self._decided(identity, http, call, path, parameters)

    def _behind(self, call: Call[Any, Any]) -> Components:
        """Whom to ask for what was forwarded. A compose is done here; its steps are calls of their own, of one hop."""
        return self._components if call is COMPOSE and COMPOSE not in self._relays else self._here

    async def _forwarded(self, http: web.BaseRequest, said: str) -> Caller:
        """Who calls, by the word of another process, which has asked whether they may. From another host, a
        certificate proves besides that it is one of ours."""
        if self._passport is None:
            raise Unauthenticated(f"This process takes no {passport.HEADER}: its port layer has no other process.")
        if not self._peers.is_local(http) and not await self._is_process(http):
            raise Unauthenticated(f"{passport.HEADER} is for processes of this port layer, which have a certificate.")
        return self._passport.read(said, http.method, http.raw_path)

    async def _certified(self, http: web.BaseRequest) -> Identity | None:
        certificate = self._peers.certificate(http)
        return await self._authority.certified(certificate) if self._authority and certificate else None

    async def _is_process(self, http: web.BaseRequest) -> bool:
        certificate = self._peers.certificate(http)
        return self._authority is not None and certificate is not None and await self._authority.vouches(certificate)

    async def _identity(self, http: web.BaseRequest) -> Identity | None:
        """Whoever the token is of, where one is sent, good or not; else what the kernel or a certificate says."""
        sent = http.headers.get("Authorization")
        if sent is None:
            return self._peers.identify(http) or await self._certified(http)
        scheme, _, secret = sent.partition(" ")
        if self._authority is None or scheme.lower() != "bearer":
            return None
        return await self._authority.identify(secret.strip())

    def _decided(
        self,
        identity: Identity | None,
        http: web.BaseRequest,
        call: Call[Any, Any],
        path: str,
        parameters: dict[str, str],
    ) -> _Asked:
        """The caller and the components for *identity*; who may not is refused before anything of it is looked up."""
        tenant = parameters.get(call.tenant) if call.tenant else None
        try:
            decide(identity, call.role, tenant)
        except PortlayerError as error:
            self._refused(identity, http, call, path, parameters, error)
            raise
        vch = parameters.pop("vch", DEFAULT_VCH)
        key = idempotency_key(http)
        if identity is None:
            return None, Caller(vch=vch, idempotency_key=key, subject="", role="viewer"), self._components
        caller = Caller(vch=vch, idempotency_key=key, subject=identity.subject, role=identity.role)
        return identity, caller, self._components

    def _refused(
        self,
        identity: Identity | None,
        http: web.BaseRequest,
        call: Call[Any, Any],
        path: str,
        parameters: dict[str, str],
        error: PortlayerError,
    ) -> None:
        """The audit log has that *identity* may not."""
        tenant = parameters.get(call.tenant) if call.tenant else None
        doing = Doing(TABLE[type(error)][0], error.code)
        self._audit.refuse(identity, tenant, call.name, path, doing, request=request_id(http))

    async def _while_good(
        self, work: Awaitable[web.StreamResponse], identity: Identity, http: web.BaseRequest
    ) -> web.StreamResponse:
        """Do *work*, which may last; its connection is cut, so that it cannot be taken for whole, when *identity*
        ends."""
        if self._authority is None or not identity.how.startswith(("token:", "certificate:")):
            return await work
        ending = asyncio.ensure_future(self._authority.ended(identity))
        ending.add_done_callback(lambda task: _cut(http) if not task.cancelled() else None)
        try:
            return await work
        finally:
            ending.cancel()

    async def _told(
        self,
        work: Awaitable[web.StreamResponse],
        identity: Identity,
        call: Call[Any, Any],
        vch: str,
        http: web.BaseRequest,
    ) -> web.StreamResponse:
        """Do *work*; the audit log has it however it ends."""
        doing = Doing()
        try:
            response = await _answered(work)
            doing = doing_of(response, acts=call.acts)
            return response
        finally:
            path = http.raw_path.partition("?")[0]
            tenant = vch if call.tenant else None
            self._audit.tell(identity, tenant, call.name, path, doing, request=request_id(http))

    async def _finished(
        self, work: Awaitable[web.StreamResponse], call: Call[Any, Any], vch: str
    ) -> web.StreamResponse:
        """Do *work*; a drain waits for it. To its end, also where the caller goes away, unless the call `leaves`."""
        mine = asyncio.current_task() if call.leaves else None
        task = mine or asyncio.ensure_future(_answered(work))
        self.shared.acting.add(task)
        task.add_done_callback(self.shared.acting.discard)
        if mine:
            return await work
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.load.outlived(vch, task)
            raise


def _stopping() -> Unavailable:
    return Unavailable("The port layer is stopping; come again when it is back.", retry_after_seconds=1, refused=True)


def _newer(error: Exception) -> Unavailable:
    """The refusal of what another process has taken for good and passed on: it is of another version."""
    return Unavailable(
        f"The process that has to answer is of another version than the one that was asked ({error}); come again when "
        "both are upgraded.",
        retry_after_seconds=UPGRADE_SECONDS,
        refused=True,
    )


def _cut(http: web.BaseRequest) -> None:
    if http.transport is not None:
        http.transport.abort()


def _relay(components: Components, call: Call[Any, Any]) -> Relay | None:
    """What passes *call* on to another process, as it came; None where that has to be written anew."""
    bound = call.method in AT_THE_CONTAINER.get(call.component, ())
    return components.relays.get(call.component) if call.plain and not bound else None


async def _relayed(relay: Relay, caller: Caller, message: Message) -> web.StreamResponse:
    """What the other process answers, as it comes. The request was read here, too: what it lacks takes no hop."""
    call = message.call
    return written_answer(await relay(caller, call.method or call.name.partition("/")[2], message), call.status)


async def _plain(exchange: Exchange) -> web.StreamResponse:
    return json_answer(await exchange.invoke(), exchange.call.status)


async def _answered(work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """What *work* answers; an error becomes an answer too."""
    try:
        return await work
    except (PortlayerError, Refused) as error:
        return problem_answer(error)
    except Exception as error:
        _logger.exception("a request failed in a way that it should not")
        return problem_answer(error)
