"""Ways to stand-ins: in the process that callers reach, or one hop behind it.

The same words as for real components (`apart.cluster.TOPOLOGIES`), of which only who passes what on matters here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from portlayer.components.routing import missing, routed
from portlayer.interfaces.components import Components
from portlayer.model.topology import COMPONENTS, LOCAL_HOST
from portlayer.rest.client import RestClient
from portlayer.rest.passport import Passport
from portlayer.rest.server import Server
from portlayer.tracing import Untraced

HAVING = {
    "all in one": frozenset(COMPONENTS),
    "each apart": frozenset[str](),
    "storage apart": frozenset(COMPONENTS) - {"storage"},
    "changing under way": frozenset({"interaction"}),
}
"""Which components the process has that callers reach, by topology."""
_PASSPORT = Passport(b"k" * 32)


class _Nowhere:
    """What a container of stand-ins is on."""

    async def of(self, _caller: object, _request: object) -> None:
        return None


class _InTurn:
    """A directory of several that have everything, and of which another one is found each time."""

    def __init__(self, having: Sequence[RestClient]) -> None:
        self._having = itertools.cycle(having)

    def find(self, _component: str, _host: str | None = None, _besides: object = None) -> Components:
        return next(self._having).components

    async def refresh(self) -> None:
        pass


@contextlib.asynccontextmanager
async def reached(components: Components, topology: str, directory: Path) -> AsyncIterator[Components]:
    """*components*, as the process that callers reach has them in *topology*."""
    have = HAVING[topology]
    if have == HAVING["all in one"]:
        yield components
        return
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for number in range(2 if topology == "changing under way" else 1):
            server = Server(components, components, _PASSPORT)
            path = directory / f"behind-{number}"
            await server.listen_unix(path)
            stack.push_async_callback(server.drain, 5)
            client = RestClient(f"unix://{path}", passport=_PASSPORT, name=f"process {number}")
            clients.append(await stack.enter_async_context(client))
        here: dict[str, Any] = {
            name: getattr(components, name) if name in have else missing(name) for name in COMPONENTS
        }
        local = Components(service=components.service, **here)
        nowhere: Any = _Nowhere()
        yield routed(local, have, LOCAL_HOST, nowhere, _InTurn(clients), Untraced())
