"""The other processes of this port layer, as the store tells of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from portlayer.components import keys
from portlayer.components.following import Followed
from portlayer.components.membership import Process
from portlayer.interfaces.components import Components
from portlayer.interfaces.service import Service
from portlayer.interfaces.store import Store
from portlayer.model.errors import PortlayerError
from portlayer.model.topology import Part
from portlayer.rest.client import RestClient
from portlayer.rest.client.connection import Contexts
from portlayer.rest.passport import Passport


class Peers:
    """Finds who has a component, and speaks to it over REST, vouching for callers.

    contexts: for those at https addresses, the certificates by which processes know each other.

    What was last known stays known while the store is away: a process that has gone answers nothing, which says so. One
    whose lease has ended is not asked, and no longer waited for. But where this one's has ended, too, leases tell
    nothing, as in a store that is full: then it is asked until it cannot be reached.
    """

    def __init__(self, store: Store, me: Part, passport: Passport, contexts: Contexts | None = None) -> None:
        self._followed = Followed(store, keys.PROCESSES, Process, self._learn)
        self._me = me
        self._passport = passport
        self._contexts = contexts
        self._known: dict[str, Process] = {}
        self._lost: dict[tuple[str, str], Part] = {}
        self._clients: dict[str, RestClient] = {}
        self._ways: dict[tuple[str, str | None], list[Components]] = {}
        self._looking: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Know them, as the store tells."""
        await self._followed.start()
        yield

    async def close(self) -> None:
        """Close all connections."""
        await self._followed.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def find(self, component: str, host: str | None = None, besides: object = None) -> Components | None:
        """Some process with *component*, on *host* where that is given, that is not reached by *besides*; one on this
        machine rather than another."""
        ways = self._ways.get((component, host))
        if ways is None:
            lost = () if self._says_that_it_lives() else self._lost.values()
            parts = (*self._having(component, host, self.parts()), *self._having(component, host, lost))
            ways = self._ways[component, host] = [self._client(part, component).components for part in parts]
        return next((way for way in ways if getattr(way, component) is not besides), None)

    def _having(self, component: str, host: str | None, parts: Iterable[Part]) -> list[Part]:
        """Those of *parts* that have it, the best first."""
        having = [
            part
            for part in parts
            if component in part.components and part.name != self._me.name and host in (None, part.host)
        ]
        return sorted(having, key=lambda part: (part.host != self._me.host, part.name))

    def _says_that_it_lives(self) -> bool:
        """Whether this process does."""
        me = (self._me.host, self._me.name)
        return any((part.host, part.name) == me for part in self.parts())

    def service(self, part: Part) -> Service:
        """The service of the process that is *part*."""
        return self._client(part, "service").components.service

    async def refresh(self) -> None:
        """Look again who there is; several at once look once."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._followed.read())
        with contextlib.suppress(PortlayerError):
            await asyncio.shield(self._looking)
        if not self._says_that_it_lives():
            self._lost.clear()  # one of them could not be reached
        self._ways.clear()

    def _client(self, part: Part, component: str) -> RestClient:
        client = self._clients.get(part.address)
        if client is None:
            name = f"{component} (process {part.name})"
            client = RestClient(part.address, self._contexts, passport=self._passport, name=name)
            self._clients[part.address] = client
        return client

    def _learn(self) -> None:
        """Who lives is known anew. Who waits for one that does not any more has waited long enough."""
        known = dict(self._followed.known)
        self._lost |= {(process.part.host, process.part.name): process.part for process in self._known.values()}
        for process in known.values():
            self._lost.pop((process.part.host, process.part.name), None)
        gone = {process.part.address for process in self._known.values()}
        gone -= {process.part.address for process in known.values()}
        self._known = known
        self._ways.clear()
        if self._says_that_it_lives():
            for address in gone & self._clients.keys():
                self._clients[address].give_up()

    def parts(self) -> Iterable[Part]:
        """All that live, this one too."""
        return (process.part for process in self._known.values())
