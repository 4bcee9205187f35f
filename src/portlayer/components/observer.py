"""Watching what the substrate does by itself: exits, and what they lead to; and what is left from before.

One task follows each running process. At start, what was half done is finished or undone, and exits of the meantime are
recorded. What happens behind our back is the reconciler's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from portlayer.components import keys
from portlayer.components.commit import outcome
from portlayer.components.commit.engine import Engine
from portlayer.components.commit.gathering import Found
from portlayer.components.enduring import endure
from portlayer.components.handles import NEVER, Draft
from portlayer.components.placing import share
from portlayer.components.records import Records, decode, event_puts, own_volumes, put
from portlayer.interfaces.store import Check, CheckFailed, Compacted, Delete, Record, Transaction
from portlayer.model.changes import ChangeState, RemoveContainer
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.model.execution import ContainerRecord, ContainerSpec, Observed, replace
from portlayer.model.names import new_id
from portlayer.scope import apart

log = logging.getLogger(__name__)
LIVE = ("running", "paused")
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.1, 60.0
IDLE_ROOTFS_SECONDS = 10.0
READ_SECONDS = 10.0
"""How long who is removed on exit stays for those who read its output."""
RETRY_SECONDS = 5.0
AGAIN_SECONDS = 1.0
"""How soon what needs the store is tried again, where it was away."""

T = TypeVar("T")


def internal_draft(vch: str, record: ContainerRecord, *changes: ChangeState | RemoveContainer) -> Draft:
    """A draft of our own, on the present revision."""
    return Draft(id=new_id(), issued=NEVER, vch=vch, container=record.spec.id, base=record.revision, changes=changes)


class Observer:
    """Follows the processes of one host."""

    def __init__(self, records: Records, engine: Engine, host: str) -> None:
        self._records = records
        self._engine = engine
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed: set[str] = set()
        self._reacting: set[str] = set()

    async def start(self) -> None:
        """Bring record and substrate together, then follow."""
        self._engine.work.started = self.follow
        self._engine.work.ended = lambda vch, container: self._spawn(self._after_end(vch, container), vch, container)
        await self._engine.recovery.recover_all()
        placed = {row.key for row in await self._records.store.range(keys.placed(self._host))}
        for vch in await self._vchs():
            for row in await self._records.store.range(keys.entities(vch, "containers")):
                spec = decode(ContainerRecord, row.value).spec
                if spec.host != self._host:
                    continue
                if keys.place(self._host, vch, spec.id) not in placed:
                    await self._adopt(vch, row, spec)
                observed = await self._records.read(Observed, keys.entity(vch, "observed", spec.id))
                if observed is None:
                    continue
                if observed.state in LIVE:
                    self.follow(vch, spec.id, observed.incarnation)
                elif observed.state == "stopped":
                    self.resume(vch, spec.id)
        removals = {"networks": self._remove_network, "volumes": self._engine.substrate.storage.remove_volume}
        for kind, remove in removals.items():
            work = functools.partial(self._remove_gone, kind, remove)
            self._spawn(endure(f"{kind} that were deleted are removed", work))
        self._spawn(endure("what is left of commits is looked at", self._retry))

    async def _adopt(self, vch: str, row: Record, spec: ContainerSpec) -> None:
        """A container that was made before hosts had records counts among what this host has from now on."""
        place = put(keys.place(self._host, vch, spec.id), share(spec.resources))
        with contextlib.suppress(CheckFailed):  # it is just being changed, or removed; the next start looks again
            await self._records.store.apply(Transaction((Check(row.key, row.revision),), (place,), durable=False))

    async def _vchs(self) -> list[str]:
        return [keys.last(row.key) for row in await self._records.store.range(keys.VCHS)]

    async def _retry(self) -> None:
        """Soon after something got stuck, then at growing intervals; and now and then in any case."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            try:
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._engine.work.stuck.wait()
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, RETRY_SECONDS)
            except TimeoutError:
                backoff = FIRST_BACKOFF_SECONDS
            self._engine.work.stuck.clear()
            try:
                await self._engine.recovery.recover_all()
            except PortlayerError:
                log.exception("commits that are left could not be looked at")
            else:
                if not self._engine.work.stuck.is_set():
                    backoff = FIRST_BACKOFF_SECONDS

    async def close(self) -> None:
        """Stop following; containers run on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def follow(self, vch: str, container: str, incarnation: str) -> None:
        """Record the end of *incarnation* when it comes. Doing it again is fine."""
        if incarnation not in self._followed:
            self._followed.add(incarnation)
            self._spawn(self._follow(vch, container, incarnation), vch, container)

    def resume(self, vch: str, container: str) -> None:
        """Do what the end of *container* leads to, where nobody is at it: the process that saw it may have died."""
        if container not in self._reacting:
            self._spawn(self._resume(vch, container), vch, container)

    async def conclude(self, vch: str, container: str, incarnation: str) -> bool:
        """Record the end of *incarnation* now, unless its container is being committed; whether nobody else had. What
        it leads to follows."""
        ended = await self._record_end(vch, container, incarnation, self._engine.unless_busy)
        if ended is not None:
            self._spawn(self._react(vch, *ended), vch, container)
        return ended is not None

    def _spawn(self, work: Coroutine[None, None, None], vch: str = "", container: str = "") -> None:
        about = {"vch": vch, "container": container} if container else {}
        task = asyncio.create_task(work, context=apart(**about))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, vch: str, container: str, incarnation: str) -> None:
        try:
            await self._engine.substrate.execution.wait(container, incarnation)
            alone = self._engine.alone
            ended = await _once_store_is_there(lambda: self._record_end(vch, container, incarnation, alone))
            if ended is not None:
                await self._react(vch, *ended)
            self._followed.discard(incarnation)
            await self._let_rootfs_rest(vch, container, incarnation)
        except PortlayerError:
            log.exception("following %s of container %s failed", incarnation, container)
        finally:
            self._followed.discard(incarnation)

    async def _record_end(
        self,
        vch: str,
        container: str,
        incarnation: str,
        holding: Callable[[str, str], AbstractAsyncContextManager[Found | None]],
    ) -> tuple[ContainerRecord, Observed] | None:
        """What was recorded; None where a commit did it, or the container has gone on since. holding: the container;
        None where that cannot be now."""
        driver = self._engine.substrate.execution
        while True:
            async with holding(vch, container) as found:
                if found is None:
                    return None
                record, observed = found.committed, found.observed
                if record is None or observed.incarnation != incarnation or observed.state not in LIVE:
                    return None
                ended = await outcome.ended(observed, container, driver, asked=observed.stop_requested)
                ops = [
                    put(keys.entity(vch, "observed", container), ended),
                    *event_puts(vch, outcome.exit_event(container, record.spec.name, ended)),
                ]
                try:
                    await self._records.store.apply(Transaction(found.unchanged, ops, durable=False))
                except CheckFailed:
                    continue  # another process watches it, too
                await driver.remove(container, incarnation)
                await self._withdraw(record)
                return record, ended

    async def _withdraw(self, record: ContainerRecord) -> None:
        """What is published outlives the process."""
        for endpoint in record.spec.endpoints.values():
            if endpoint.publishes:
                await self._engine.substrate.network.unpublish(record.spec.id, endpoint.id)

    async def _resume(self, vch: str, container: str) -> None:
        """What the end of *container* leads to, where an earlier process of ours did not come to it."""
        async with self._engine.alone(vch, container) as found:
            record, observed = found.committed, found.observed
            if record is None or observed.state != "stopped":
                return
            await self._withdraw(record)
        await self._react(vch, record, observed)

    async def _after_end(self, vch: str, container: str) -> None:
        """A commit stopped it, or could not execute its program: what is to be removed on exit goes."""
        found = await self._records.container(vch, container)
        if found is not None and found[0].spec.remove_on_exit and found[1].state == "stopped":
            await self._react(vch, *found)  # not before its start, though that is known to fail

    async def _react(self, vch: str, record: ContainerRecord, observed: Observed) -> None:
        """Remove or restart what ended, as its spec asks; where that fails, again, for as long as it is asked."""
        if record.spec.id in self._reacting:
            return
        self._reacting.add(record.spec.id)
        try:
            await self._react_alone(vch, record, observed)
        finally:
            self._reacting.discard(record.spec.id)

    async def _react_alone(self, vch: str, record: ContainerRecord, observed: Observed) -> None:
        pause = FIRST_BACKOFF_SECONDS * 2 ** min(observed.restarts, 16)
        while True:
            try:
                await self._react_once(vch, record, observed, pause)
            except Unavailable as error:
                log.warning("what the end of container %s leads to has to wait: %s", record.spec.id, error)
                await asyncio.sleep(AGAIN_SECONDS)
            except PortlayerError as error:
                log.warning("what the end of container %s leads to has failed: %s", record.spec.id, error)
                pause *= 2
                await asyncio.sleep(min(pause, LAST_BACKOFF_SECONDS))
            else:
                return

    async def _react_once(self, vch: str, record: ContainerRecord, observed: Observed, pause: float) -> None:
        draft = await self._reaction(vch, record, observed)
        if draft is None:
            return
        if record.spec.remove_on_exit:
            await self._until_read(vch, record.spec.id)
        else:
            await asyncio.sleep(min(pause, LAST_BACKOFF_SECONDS))
        found = await self._records.container(vch, record.spec.id)
        if found is None or found[1] != observed or found[0].spec.restart_policy != record.spec.restart_policy:
            return
        draft = replace(draft, base=found[0].revision)
        await self._engine.commit(vch, [draft], bump=record.spec.remove_on_exit, patient=True)

    async def _until_read(self, vch: str, container: str) -> None:
        """Whoever reads its output comes to the end of it; those of processes that died do not."""
        prefix = keys.attachments(vch, container)
        rows = await self._records.store.range(prefix)
        if not rows:
            return
        living = await self._engine.membership.living()
        dead = [Delete(row.key) for row in rows if row.value.decode() not in living]
        if dead:
            await self._records.store.apply(Transaction(ops=dead, durable=False))
        await self._records.until_gone(prefix, READ_SECONDS)

    async def _reaction(self, vch: str, record: ContainerRecord, observed: Observed) -> Draft | None:
        if record.spec.remove_on_exit:
            volumes = await own_volumes(self._records, vch, record.spec)
            return internal_draft(vch, record, RemoveContainer(volumes=volumes))
        if self._wants_restart(record, observed):
            return internal_draft(vch, record, ChangeState(state="running", restart=True))
        return None

    @staticmethod
    def _wants_restart(record: ContainerRecord, observed: Observed) -> bool:
        policy = record.spec.restart_policy
        if observed.stop_requested or observed.start_error is not None or policy.name == "no":
            return False
        if policy.name != "on-failure":
            return True
        most = policy.maximum_retry_count
        return observed.exit_code != 0 and (not most or observed.restarts < most)

    async def _let_rootfs_rest(self, vch: str, container: str, incarnation: str) -> None:
        """A container that stays stopped does not keep its filesystem mounted."""
        await asyncio.sleep(IDLE_ROOTFS_SECONDS)
        async with self._engine.alone(vch, container) as found:
            if found.record and found.observed.state == "stopped" and found.observed.incarnation == incarnation:
                await self._engine.substrate.storage.release_rootfs(container)

    async def _remove_gone(self, kind: str, remove: Callable[[str], Awaitable[None]]) -> None:
        """What was deleted is taken from this host; the deletion waits for it."""
        prefix = keys.gone(kind, self._host)
        while True:
            try:
                async with contextlib.aclosing(self._records.store.watch(prefix)) as changes:
                    while True:
                        whole = await self._take_away(prefix, remove)
                        async with asyncio.timeout(None if whole else RETRY_SECONDS):
                            if await anext(changes, None) is None:
                                return
            except TimeoutError:
                continue
            except (Compacted, PortlayerError) as error:
                log.warning("what was deleted cannot be taken from this host now: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _take_away(self, prefix: str, remove: Callable[[str], Awaitable[None]]) -> bool:
        """Whether all of it is gone: what cannot be removed does not keep the rest here."""
        whole = True
        for row in await self._records.store.range(prefix):
            try:
                await remove(keys.last(row.key))
                await self._records.store.apply(Transaction(ops=[Delete(row.key)], durable=False))
            except PortlayerError as error:
                log.warning("%s could not be removed; it will be tried again: %s", row.key, error)
                whole = False
        return whole

    async def _remove_network(self, network: str) -> None:
        await self._engine.substrate.network.remove_network(network)
        self._engine.forget_network(network)


async def _once_store_is_there(work: Callable[[], Awaitable[T]]) -> T:
    """*work*, tried again for as long as the store is away."""
    while True:
        try:
            return await work()
        except Unavailable as error:
            log.warning("what a process has come to cannot be recorded yet: %s", error)
        await asyncio.sleep(AGAIN_SECONDS)
