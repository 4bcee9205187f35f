"""One request being answered, and what all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from portlayer.interfaces.components import Components
from portlayer.model.caller import Caller
from portlayer.rest.calls import Call
from portlayer.rest.server.content import pieces
from portlayer.rest.server.turns import Turns


@dataclass(frozen=True)
class Shared:
    """What outlives a request. turns: of short calls. For a drain: leaving: nobody should be sent here any more;
    draining: whoever comes is refused; and what it waits for, or cuts."""

    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    acting: set[asyncio.Task[Any]] = field(default_factory=set)
    cut_at_drain: set[asyncio.Transport] = field(default_factory=set)
    turns: Turns = field(default_factory=Turns)


@dataclass(frozen=True)
class Exchange:
    """A decoded request, on its way to its component; `request` has the type that the call's row says."""

    shared: Shared
    components: Components
    http: web.BaseRequest
    call: Call[Any, Any]
    caller: Caller
    request: Any

    async def invoke(self) -> Any:
        """What the component answers."""
        component = getattr(self.components, self.call.component)
        return await getattr(component, self.call.method)(self.caller, self.request)

    def body(self) -> AsyncIterator[bytes]:
        """The request's body as it comes in."""
        return pieces(self.http)

    def accepts(self, media_type: str) -> bool:
        """Whether the caller named *media_type* in `Accept` (a wildcard does not name it)."""
        wanted = ",".join(self.http.headers.getall("Accept", ()))
        return media_type in {each.partition(";")[0].strip().lower() for each in wanted.split(",")}


Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]
