"""From any HTTP request to its answer: route, decode, call the component, encode."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import Any

from aiohttp import web

from portlayer.interfaces.components import Components
from portlayer.model.bounds import HttpBounds
from portlayer.model.caller import DEFAULT_VCH, Caller
from portlayer.model.errors import InvalidArgument, PortlayerError, Unauthenticated, Unavailable, Unsupported
from portlayer.rest import passport
from portlayer.rest.calls import CALLS, Call
from portlayer.rest.calls.service import HEALTH, METRICS_TEXT, READY
from portlayer.rest.passport import Passport
from portlayer.rest.server import execution, interaction, service, storage
from portlayer.rest.server.answers import Refused, json_answer, problem_answer
from portlayer.rest.server.decode import Decoder, idempotency_key
from portlayer.rest.server.exchange import Exchange, Handler, Shared
from portlayer.rest.server.load import Load
from portlayer.rest.server.router import Router

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


class Dispatcher:
    """The handler of all requests. Whatever goes wrong, the answer is a problem document.

    components: some of which may be in other processes. here: the same for what another process has forwarded, whose
    word on who calls is taken by *passport*: those that are elsewhere refuse, for there is one hop. bounds: what is
    answered at once.
    """

    def __init__(
        self,
        components: Components,
        here: Components | None = None,
        passport: Passport | None = None,
        bounds: HttpBounds | None = None,
    ) -> None:
        self.shared = Shared()
        self.load = Load(bounds or HttpBounds())
        self._components = components
        self._here = here or components
        self._passport = passport
        self._router = Router(CALLS)
        self._decoders = {call: Decoder(call) for call in CALLS}

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        began = time.monotonic()
        with self.load.using(http.protocol):
            response = await _answered(self._respond(http))
        if self.shared.draining.is_set():
            response.force_close()
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug(
                "request",
                extra={
                    "method": http.method,
                    "target": http.raw_path,
                    "status": response.status,
                    "seconds": time.monotonic() - began,
                },
            )
        return response

    async def _respond(self, http: web.BaseRequest) -> web.StreamResponse:
        if self.shared.draining.is_set():
            raise Unavailable(
                "The port layer is stopping; come again when it is back.", retry_after_seconds=1, refused=True
            )
        path, _, query = http.raw_path.partition("?")
        if not path.isascii() or not query.isascii():
            raise InvalidArgument("The URL has bytes that are not ASCII; percent-encode them as UTF-8.")
        call, parameters = self._router.resolve(http.method, path)
        if call.unsupported:
            raise Unsupported(f"{call.verb} {path[:200]} is not offered: {call.unsupported}.", option=call.name)
        if call in VITAL:
            return await self._answer(http, call, parameters, query)
        with self.load.answering(parameters.get("vch", "")):
            return await self._answer(http, call, parameters, query)

    async def _answer(
        self, http: web.BaseRequest, call: Call[Any, Any], parameters: dict[str, str], query: str
    ) -> web.StreamResponse:
        caller, components = self._identified(http, parameters.pop("vch", DEFAULT_VCH))
        request = await self._decoders[call].decode(http, parameters, query)
        exchange = Exchange(self.shared, components, http, call, caller, request)
        handler = SPECIAL.get(call, _plain)
        return await (self._finished(handler, exchange) if call.acts else handler(exchange))

    def _identified(self, http: web.BaseRequest, vch: str) -> tuple[Caller, Components]:
        """Who calls, and the components for that one."""
        forwarded = http.headers.get(passport.HEADER)
        if forwarded is None:
            return Caller(vch=vch, idempotency_key=idempotency_key(http)), self._components
        if self._passport is None:
            raise Unauthenticated(f"This process takes no {passport.HEADER}: its port layer has no other process.")
        return self._passport.read(forwarded, http.method, http.raw_path), self._here

    async def _finished(self, handler: Handler, exchange: Exchange) -> web.StreamResponse:
        """Run *handler*; a drain waits for it. To its end, also where the caller goes away, unless it `leaves`."""
        task = asyncio.ensure_future(_answered(handler(exchange)))
        self.shared.acting.add(task)
        task.add_done_callback(self.shared.acting.discard)
        return await (task if exchange.call.leaves else asyncio.shield(task))


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
