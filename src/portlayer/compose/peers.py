"""The other processes of this port layer, as the store tells of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable

from portlayer.components import keys
from portlayer.components.membership import Process
from portlayer.components.records import decode
from portlayer.interfaces.components import Components
from portlayer.interfaces.service import Service
from portlayer.interfaces.store import Compacted, Store, Watch
from portlayer.model.errors import PortlayerError
from portlayer.model.topology import Part
from portlayer.rest.client import RestClient
from portlayer.rest.client.connection import Contexts
from portlayer.rest.passport import Passport

log = logging.getLogger(__name__)
AGAIN_SECONDS = 1.0


class Peers:
    """Finds who has a component, and speaks to it over REST, vouching for callers.

    contexts: for those at https addresses, the certificates by which processes know each other.

    What was last known stays known while the store is away: a process that has gone answers nothing, which says so. One
    whose lease has ended is not asked, and no longer waited for. But where this one's has ended, too, leases tell
    nothing, as in a store that is full: then it is asked until it cannot be reached.
    """

    def __init__(self, store: Store, me: Part, passport: Passport, contexts: Contexts | None = None) -> None:
        self._store = store
        self._me = me
        self._passport = passport
        self._contexts = contexts
        self._known: dict[str, Process] = {}
        self._lost: dict[tuple[str, str], Part] = {}
        self._clients: dict[str, RestClient] = {}
        self._ways: dict[tuple[str, str | None], list[Components]] = {}
        self._following: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Know them, as the store tells."""
        changes = self._store.watch(keys.PROCESSES)
        await self._read()
        self._following = asyncio.create_task(self._follow(changes))
        yield

    async def close(self) -> None:
        """Close all connections."""
        for task in filter(None, (self._following, self._looking)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
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
            self._looking = asyncio.create_task(self._read())
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

    async def _follow(self, changes: Watch) -> None:
        while True:
            try:
                async for change in changes:
                    known = dict(self._known)
                    known.pop(change.key, None)
                    if change.record is not None:
                        known[change.key] = decode(Process, change.record.value)
                    self._learn(known)
            except Compacted:
                log.info("other processes are looked for anew")
            except PortlayerError as error:
                log.warning("other processes cannot be followed now: %s", error)
            else:
                return
            await asyncio.sleep(AGAIN_SECONDS)
            changes = self._store.watch(keys.PROCESSES)
            with contextlib.suppress(PortlayerError):
                await self._read()

    async def _read(self) -> None:
        self._learn({row.key: decode(Process, row.value) for row in await self._store.range(keys.PROCESSES)})

    def _learn(self, known: dict[str, Process]) -> None:
        """All that live are *known*. Who waits for one that does not any more has waited long enough."""
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
