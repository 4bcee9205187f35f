"""The reconciler: what the records say, held against what the host has, again and again; what differs is mended.

Nobody tells us of these: a container deleted with the runtime's own tools, a link, a bridge, a table of the firewall or
a mount that somebody removed, an exit that was missed, what a process of ours left when it died. docs/commit.md has the
table of what is found and what is done; `mending` has what is done for networks and filesystems.

One sweep at a time, a few containers at a time; between any two others have their turn. Evidence is gathered
without locks. Only where something looks wrong is the container held and looked at again, and one that is being
committed, by whichever process, is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

from portlayer.components import keys
from portlayer.components.commit.engine import Engine
from portlayer.components.commit.gathering import Found
from portlayer.components.enduring import endure
from portlayer.components.events import trim
from portlayer.components.mending.common import KINDS, Container, Mending
from portlayer.components.mending.filesystems import Filesystems
from portlayer.components.mending.networks import Networks
from portlayer.components.observer import LIVE, Observer, internal_draft
from portlayer.components.records import Records, decode, event, event_puts, put
from portlayer.components.unexplained import remove_unknown_volumes
from portlayer.interfaces.store import CheckFailed, Put, Record, Transaction
from portlayer.metrics import Kind, Labels, Metrics, Read
from portlayer.model.errors import PortlayerError
from portlayer.model.execution import ContainerRecord, Observed, replace

log = logging.getLogger(__name__)
PERIOD_SECONDS = 30.0
BATCH = 20


class Reconciler:
    """Sweeps one host. events: how many of a VCH are kept. repairs counts what was mended, by kind."""

    def __init__(
        self, records: Records, engine: Engine, observer: Observer, period_seconds: float, *, events: int
    ) -> None:
        self._mending = Mending(records, engine)
        self._filesystems = Filesystems(self._mending)
        self._networks = Networks(self._mending)
        self.repairs = self._mending.repairs
        self._store = records.store
        self._engine = engine
        self._on = engine.substrate
        self._observer = observer
        self._period = period_seconds
        self._events = events
        self._sweeps = 0
        self._ended_at = 0.0
        self._took = 0.0
        self._task: asyncio.Task[None] | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()

    async def start(self, *, alone: bool) -> None:
        """Begin. alone: what died processes have left is gone when this returns."""
        if alone:
            await self._remove_unexplained()
        self._task = asyncio.create_task(endure("containers are reconciled", self._sweep_often))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sweep_often(self) -> None:
        while True:
            waiting, self._waiting = self._waiting, []
            try:
                await self.sweep()
            except PortlayerError:
                log.exception("a sweep was cut short; the next will come")
            for each in waiting:
                if not each.done():
                    each.set_result(None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), 0 if self._waiting else self._period)
            self._wanted.clear()

    async def swept(self) -> None:
        """Return once a sweep that begins after this has ended, or was cut short."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wanted.set()
        await done

    def tell(self, metrics: Metrics) -> None:
        """Add its figures to *metrics*."""

        def repairs() -> list[tuple[Labels, float]]:
            return [((kind,), self.repairs[kind]) for kind in KINDS]

        text = "What the reconciler has mended, by kind."
        metrics.add(Read("portlayer_reconciler_repairs_total", text, "counter", repairs, ("kind",)))
        looks: dict[str, tuple[Kind, str, Callable[[], float]]] = {
            "sweeps_total": ("counter", "Sweeps that were finished.", lambda: self._sweeps),
            "last_sweep_timestamp_seconds": ("gauge", "When the last sweep ended.", lambda: self._ended_at),
            "last_sweep_duration_seconds": ("gauge", "How long the last sweep took.", lambda: self._took),
        }
        for name, (kind, text, look) in looks.items():
            metrics.add(Read(f"portlayer_reconciler_{name}", text, kind, partial(_only, look)))

    async def sweep(self) -> None:
        """Look at everything once. What this host should have besides its containers is looked at here, too."""
        began = time.monotonic()
        await self._remove_unexplained()
        checked: set[str] = set()
        async for batch in self._batches():
            for one in batch:
                await asyncio.sleep(0)
                await self._mending.attempt(one, self._check_process(one))
            await self._filesystems.check(batch)
            await self._networks.check(batch, checked)
        for vch in await self._vchs():
            await trim(self._store, vch, self._events)
        self._sweeps += 1
        self._took, self._ended_at = time.monotonic() - began, time.time()

    async def _rows(self, prefix: str, many: int = 100) -> AsyncIterator[list[Record]]:
        """All records under *prefix*, some at a time."""
        after = ""
        while rows := await self._store.range(prefix, after=after, limit=many):
            after = rows[-1].key
            yield rows
            await asyncio.sleep(0)

    async def _batches(self) -> AsyncIterator[list[Container]]:
        """The containers of this host, of all VCHs."""
        for vch in await self._vchs():
            async for rows in self._rows(keys.entities(vch, "containers"), BATCH):
                seen = await self._store.get_many([keys.entity(vch, "observed", keys.last(row.key)) for row in rows])
                read = [
                    Container(
                        vch, decode(ContainerRecord, row.value), decode(Observed, one.value) if one else Observed()
                    )
                    for row, one in zip(rows, seen, strict=True)
                ]
                yield [one for one in read if one.spec.host == self._engine.host]

    async def _vchs(self) -> list[str]:
        return [keys.last(row.key) for row in await self._store.range(keys.VCHS)]

    # processes

    async def _check_process(self, one: Container) -> None:
        observed = one.observed
        if observed.state == "stopped":
            self._observer.resume(one.vch, one.spec.id)
        if not one.live:
            return
        if observed.state in LIVE:
            self._observer.follow(one.vch, one.spec.id, one.live)
        seen = await self._on.execution.observe(one.spec.id, one.live)
        if observed.state not in LIVE:
            if seen.state != "prepared":
                await self._prepare_again(one)
        elif seen.state in ("exited", "absent"):
            if await self._observer.conclude(one.vch, one.spec.id, one.live):
                self.repairs["exit"] += 1
        elif seen.state in LIVE and seen.state != observed.state:
            await self._note_state(one)

    async def _note_state(self, one: Container) -> None:
        """Somebody froze or thawed it: what the substrate says is the truth."""
        async with self._engine.unless_busy(one.vch, one.spec.id) as found:
            if found is None or found.observed != one.observed:
                return
            state = (await self._on.execution.observe(one.spec.id, one.live)).state
            if state not in LIVE or state == found.observed.state:
                return
            what = "paused" if state == "paused" else "resumed"
            ops = [
                put(keys.entity(one.vch, "observed", one.spec.id), replace(found.observed, state=state)),
                *event_puts(one.vch, event("container", what, one.spec.id, one.spec.name)),
            ]
            if await self._record(found, ops):
                self.repairs["state"] += 1

    async def _prepare_again(self, one: Container) -> None:
        """The process that waited for its start is gone. It is a cache: where it cannot be made, it is forgotten."""
        async with self._engine.unless_busy(one.vch, one.spec.id) as found:
            if found is None or found.observed != one.observed:
                return
        try:
            await self._engine.commit(one.vch, [internal_draft(one.vch, one.record)], bump=False, patient=True)
            await self._mending.mended(one, "process")
        except PortlayerError as error:
            log.warning("container %s cannot be prepared again, its next start will try: %s", one.spec.id, error)
            async with self._engine.unless_busy(one.vch, one.spec.id) as found:
                if found is not None and found.observed == one.observed:
                    forgotten = replace(found.observed, prepared="")
                    await self._record(found, [put(keys.entity(one.vch, "observed", one.spec.id), forgotten)])

    async def _record(self, found: Found, ops: Sequence[Put]) -> bool:
        try:
            await self._store.apply(Transaction(found.unchanged, ops, durable=False))
        except CheckFailed:
            return False
        return True

    # what no record explains

    async def _remove_unexplained(self) -> None:
        """Processes, filesystems and networks of which no record tells: left by a process of ours that died.

        The host is read before the intents, and these before the records: what was there had one of them by then.
        """
        on, locks = self._on, self._engine.locks
        present, rootfs, there = await on.execution.present(), await on.storage.rootfs(), await on.network.networks()
        known: dict[str, tuple[str, Observed]] = {}
        networks: set[str] = set()
        vchs = await self._vchs()
        busy = {keys.last(row.key) for vch in vchs for row in await self._store.range(keys.entities(vch, "intents"))}
        for vch in vchs:
            async for rows in self._rows(keys.entities(vch, "observed")):
                known |= {keys.last(row.key): (vch, decode(Observed, row.value)) for row in rows}
            networks |= {keys.last(row.key) for row in await self._store.range(keys.entities(vch, "networks"))}
        for one in present:
            await asyncio.sleep(0)
            if one.container in busy or locks.held(one.container):
                continue
            vch, observed = known.get(one.container, ("", Observed()))
            if one.incarnation not in _explained(observed):
                await self._remove_process(vch, one.container, one.incarnation)
        for container in rootfs:
            if container not in known and container not in busy and not locks.held(container):
                await on.storage.remove_rootfs(container)
                self.repairs["unexplained"] += 1
        for network in there:
            if network not in networks:
                await on.network.remove_network(network)
                self.repairs["unexplained"] += 1
        self.repairs["unexplained"] += await remove_unknown_volumes(self._store, on.storage)
        await self._engine.layers.sweep()

    async def _remove_process(self, vch: str, container: str, incarnation: str) -> None:
        """vch: empty for a container that is not there."""
        if vch:
            async with self._engine.unless_busy(vch, container) as found:
                if found is None or incarnation in _explained(found.observed):
                    return
                await self._on.execution.remove(container, incarnation)
        else:
            await self._on.execution.remove(container, incarnation)
        log.warning("removed process %s, which no record explains", incarnation)
        self.repairs["unexplained"] += 1


def _only(look: Callable[[], float]) -> list[tuple[Labels, float]]:
    return [((), look())]


def _explained(observed: Observed) -> tuple[str, ...]:
    """The incarnations that a container may have on the host; one that has ended, and was recorded, is none of them."""
    return (observed.prepared, observed.incarnation) if observed.state in LIVE else (observed.prepared,)
