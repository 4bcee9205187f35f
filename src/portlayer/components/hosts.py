"""The hosts, as the store tells of them: what each has, and whether it lives.

    /hosts/<host>      HostRecord: written by its execution process; stays when that dies
    /processes/<id>    Process: a lease (see membership.py); a host with no execution among them is away

A host that comes up is `starting` until its first sweep is done: what is recorded of its containers may be old before.
Whoever sees first that a host is away, or back, writes so into its record, and tells the VCHs that have containers
there, in one transaction: so each is told once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

from portlayer.components import keys
from portlayer.components.enduring import endure
from portlayer.components.following import Bell, Followed
from portlayer.components.membership import Process
from portlayer.components.records import decode, decode_whole, event, event_puts, put
from portlayer.interfaces.store import Check, CheckFailed, Put, Store, Transaction
from portlayer.model.base import Value, now
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.model.execution import replace
from portlayer.model.hosts import Capacity, HostRules
from portlayer.model.service import HostState
from portlayer.model.versions import amended

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0
RETURN_SECONDS = 5
FACTS_SECONDS = 30.0
FORGET_SECONDS = 5.0


class HostRecord(Value):
    """A host in the store. has: what the machine has; rules: what the configuration says of it. subnets: CIDRs that it
    uses itself. ipv6: whether networks can have it there. lacks_capacity: why volumes there cannot have a capacity.

    since: when it came up last. away_since: when it was found to be away, once that was told. leaving: it is being
    removed, and must not come up.
    """

    name: str
    substrate: str
    features: dict[str, str]
    has: Capacity
    rules: HostRules = HostRules()
    subnets: tuple[str, ...] = ()
    ipv6: bool = False
    lacks_capacity: str = ""
    state: Literal["starting", "up"] = "starting"
    since: str = ""
    away_since: str | None = None
    leaving: bool = False

    @property
    def room(self) -> Capacity:
        """What the limits of its containers may come to."""
        cpus, memory = self.rules.cpus, self.rules.memory_bytes
        return Capacity(
            cpus=self.has.cpus if cpus is None else cpus,
            memory_bytes=self.has.memory_bytes if memory is None else memory,
        )


class HostBook:
    """All hosts as this process knows them."""

    def __init__(self, store: Store) -> None:
        self.bell = Bell()
        self._hosts = Followed(store, keys.HOSTS, HostRecord, self.bell.ring)
        self._processes = Followed(store, keys.PROCESSES, Process, self.bell.ring)

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Know them, and what changes."""
        async with contextlib.AsyncExitStack() as stack:
            for each in (self._hosts, self._processes):
                stack.push_async_callback(each.close)
                await each.start()
            yield

    def all(self) -> list[HostRecord]:
        """By name."""
        return [self._hosts.known[name] for name in sorted(self._hosts.known)]

    def get(self, name: str) -> HostRecord | None:
        return self._hosts.known.get(name)

    def has_process(self, name: str, component: str = "execution") -> bool:
        """Whether a process with *component* lives there."""
        return any(runs(process, name, component) for process in self._processes.known.values())

    def state(self, name: str) -> HostState:
        """`away`: nobody looks after its containers, and nothing is known of them."""
        record = self.get(name)
        if not self.has_process(name) or (record is not None and record.leaving):
            return "away"
        return "up" if record is None else record.state

    async def forgotten(self, name: str) -> None:
        """Return once a host that was removed is not known here any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FORGET_SECONDS):
                while self.get(name) is not None:
                    await asyncio.wait([self.bell.next()])

    def away(self, name: str) -> Unavailable:
        """The refusal of what only that host could do."""
        return Unavailable(
            f"Host {name} is away: no process runs execution there now. What runs there runs on; come again.",
            retry_after_seconds=RETURN_SECONDS,
        )


def runs(process: Process, host: str, component: str = "execution") -> bool:
    """Whether *process* has *component* on *host*."""
    return process.part.host == host and component in process.part.components


class Presence:
    """Says of this host that it is there, and sees which others are not.

    facts: the record of this host, for a process with execution; it is asked again, for some facts change.
    """

    def __init__(
        self, store: Store, book: HostBook, host: str, facts: Callable[[], Awaitable[HostRecord]] | None
    ) -> None:
        self._store = store
        self._book = book
        self._host = host
        self._facts = facts

    async def arrive(self) -> None:
        """Before this process begins to live: its host starts. Raises Unavailable while it is being removed."""
        if self._facts is None:
            return
        facts = await self._facts()

        def starting(known: HostRecord | None) -> HostRecord:
            if known is not None and known.leaving:
                raise Unavailable(
                    f"Host {self._host} is being removed (`portlayer host rm`); start again when that is done."
                )
            return replace(facts, since=now(), away_since=known.away_since if known else None)

        await self._write(starting)

    async def _write(self, change: Callable[[HostRecord | None], HostRecord | None]) -> None:
        """Write what *change* makes of this host's record (None: nothing), and tell of its return."""
        key = keys.host(self._host)
        while True:
            row = await self._store.get(key)
            known = decode_whole(HostRecord, row.value) if row else None
            wanted = change(known)
            if wanted is None or wanted == known:
                return
            back = known is not None and known.away_since is not None and wanted.away_since is None
            told = await self._tell(self._host, "returned") if back else []
            try:
                check = Check(key, row.revision if row else 0)
                await self._store.apply(Transaction((check,), (put(key, wanted), *told), durable=False))
            except CheckFailed:
                continue
            return

    async def _tell(self, host: str, what: str) -> list[Put]:
        """An event in each VCH that has containers on *host*."""
        rows = await self._store.range(keys.placed(host))
        vchs = dict.fromkeys(row.key.split("/")[-2] for row in rows)
        return [row for vch in vchs for row in event_puts(vch, event("host", what, host, host))]

    @contextlib.asynccontextmanager
    async def kept(self, reconciled: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Look after it all. reconciled: returns when what is recorded of this host's containers is true again."""
        task = asyncio.create_task(endure("hosts are looked at", lambda: self._keep(reconciled)))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep(self, reconciled: Callable[[], Awaitable[None]]) -> None:
        if self._facts is not None:
            await self._come_up(reconciled)
        while True:
            changed = self._book.bell.next()
            try:
                await self._look(reconciled)
                done, _ = await asyncio.wait([changed], timeout=FACTS_SECONDS)  # others wait for it too
                if not done:
                    await self.refresh()
            except PortlayerError as error:
                log.warning("hosts could not be looked at: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _come_up(self, reconciled: Callable[[], Awaitable[None]]) -> None:
        """This host's containers are looked at, and then it is up."""
        while True:
            await reconciled()
            try:
                await self.refresh()
            except PortlayerError as error:
                log.warning("this host could not say that it is up: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def refresh(self) -> None:
        """It is up, and these are its facts now."""
        if self._facts is None:
            return
        facts = await self._facts()

        def up(known: HostRecord | None) -> HostRecord | None:
            if known is None or known.leaving:
                return None  # whoever removes this host has the last word
            return replace(facts, state="up", since=known.since)

        await self._write(up)

    async def _look(self, reconciled: Callable[[], Awaitable[None]]) -> None:
        if self._facts is not None and self._book.has_process(self._host):
            mine = self._book.get(self._host)
            if mine is None:
                await self.arrive()  # it was taken for lost, and forgotten; it begins anew, with nothing
            if mine is None or (mine.away_since is not None and not mine.leaving):
                await self._come_up(reconciled)  # this process was paused, or cut off, and others took it for dead
        for record in self._book.all():
            own = self._facts is not None and record.name == self._host
            if not own and record.away_since is None and not self._book.has_process(record.name):
                await self._note_away(record.name)

    async def _note_away(self, host: str) -> None:
        row = await self._store.get(keys.host(host))
        processes = [decode(Process, other.value) for other in await self._store.range(keys.PROCESSES)]
        if row is None or any(runs(process, host) for process in processes):
            return
        known = decode(HostRecord, row.value)
        if known.away_since is not None:
            return
        away = Put(row.key, amended(HostRecord, row.value, away_since=now()))
        told = await self._tell(host, "away")
        with contextlib.suppress(CheckFailed):  # another was faster, or the host is back
            await self._store.apply(Transaction((Check(row.key, row.revision),), (away, *told), durable=False))
            log.warning("host %s is away", host)
