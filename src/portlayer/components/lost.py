"""A host that does not come back: an operator says so, and what it had is let go.

Until then all of it stays: names, addresses and volumes of a host that is away are nobody else's, for it may be back,
with all that runs there. `leaving` in its record keeps it from coming up while this goes on; what was cut short goes on
when it is called again. A host of that name that comes later is a new one: what no record explains there is removed.
"""

from __future__ import annotations

from collections.abc import Sequence

from portlayer.components import keys
from portlayer.components.commit.claims import Claims
from portlayer.components.commit.intents import Held, Intent, Joined, read_intent
from portlayer.components.commit.outcome import tombstone
from portlayer.components.hosts import HostRecord, runs
from portlayer.components.membership import Process
from portlayer.components.records import Records, decode, event, event_puts
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.model.errors import InUse, InvalidState, NotFound
from portlayer.model.execution import ContainerRecord
from portlayer.model.storage import Volume
from portlayer.model.versions import amended

MOST_SHOWN = 10


class LostHosts:
    """Removes hosts for good."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._store = records.store

    async def remove(self, name: str, *, force: bool) -> None:
        """Forget host *name*. force: with its containers and volumes.

        Raises:
            NotFound. InvalidState: it lives. InUse: it has something, and is not to be forced.
        """
        while not await self._mark(name, force=force):
            pass
        for row in await self._store.range(keys.placed(name)):
            vch, container = row.key.split("/")[-2:]
            while not await self._forget_container(name, vch, container):
                pass
        vchs = [keys.last(row.key) for row in await self._store.range(keys.VCHS)]
        for vch in vchs:
            while volumes := await self._volumes(vch, name):  # others may delete some, too
                for volume, revision in volumes:
                    await self._forget_volume(vch, volume, revision)
        await self._forget_rest(name, vchs)

    async def _mark(self, name: str, *, force: bool) -> bool:
        """Whether it is marked as leaving; False: look again."""
        row = await self._store.get(keys.host(name))
        if row is None:
            raise NotFound(f"There is no host called {name[:140]!r}.", kind="host", id=name)
        if any(runs(decode(Process, one.value), name) for one in await self._store.range(keys.PROCESSES)):
            raise InvalidState(f"Host {name} is not away; stop its process first.", kind="host", id=name, state="up")
        record = decode(HostRecord, row.value)
        if record.leaving:
            return True
        if not force:
            await self._refuse_used(name)
        empty = [] if force else [Empty(keys.placed(name))]
        try:
            leaving = Put(row.key, amended(HostRecord, row.value, leaving=True))
            await self._store.apply(Transaction((Check(row.key, row.revision), *empty), (leaving,)))
        except CheckFailed:
            return False
        return True

    async def _refuse_used(self, name: str) -> None:
        users = [keys.last(row.key) for row in await self._store.range(keys.placed(name))]
        for vch in await self._store.range(keys.VCHS):
            users += [volume.id for volume, _ in await self._volumes(keys.last(vch.key), name)]
        if users:
            raise InUse(
                f"Host {name} has {len(users)} containers and volumes; they go with it if you force that.",
                kind="host",
                id=name,
                users=users[:MOST_SHOWN],
            )

    async def _volumes(self, vch: str, host: str) -> list[tuple[Volume, int]]:
        rows = await self._store.range(keys.entities(vch, "volumes"))
        volumes = [(decode(Volume, row.value), row.revision) for row in rows]
        return [(volume, revision) for volume, revision in volumes if volume.host == host]

    async def _forget_container(self, host: str, vch: str, container: str) -> bool:
        """A commit that was under way is as if undone, or done; then the container is removed. False: go on."""
        wanted = [keys.entity(vch, kind, container) for kind in ("intents", "containers", "observed")]
        rows = await self._store.get_many(wanted)
        checks = [Check(key, row.revision if row else 0) for key, row in zip(wanted, rows, strict=True)]
        intent, record, _ = rows
        ops: list[Put | Delete] = [Delete(keys.place(host, vch, container))]
        if intent is not None:
            checks, ops = await self._settle(vch, container)
        elif record is not None:
            spec = decode(ContainerRecord, record.value).spec
            claims = Claims(vch, host, 0)
            claims.remove(spec)
            freed = {op.key: op.live() for op in (*claims.frees, *claims.finally_free)}
            told = event_puts(vch, event("container", "removed", spec.id, spec.name, host=host))
            ops = [*freed.values(), Delete(wanted[1]), Delete(wanted[2]), tombstone(vch, container), *told]
        try:
            await self._store.apply(Transaction(checks, ops))
        except CheckFailed:
            return False
        return intent is None

    async def _settle(self, vch: str, container: str) -> tuple[list[Check], list[Put | Delete]]:
        """What ends the intent under *container*; nothing where it has ended."""
        row = await self._store.get(keys.entity(vch, "intents", container))
        found = read_intent(row.value) if row else None
        if isinstance(found, Joined):
            return await self._settle(vch, found.leader)
        if row is None or not isinstance(found, Intent):
            return [], []
        held = Held(found, row.revision)
        given_back: Sequence[Put | Delete] = [
            op.live() for op in (found.undo if found.phase == "prepared" else found.finally_free)
        ]
        return held.checks, [*given_back, *held.deletes()]

    async def _forget_volume(self, vch: str, volume: Volume, revision: int) -> None:
        key, uses = keys.entity(vch, "volumes", volume.id), keys.uses(vch, "volumes", volume.id)
        ops: list[Put | Delete] = [
            Delete(key),
            Delete(keys.name(vch, "volumes", volume.name)),
            *event_puts(vch, event("volume", "removed", volume.id, volume.name, host=volume.host)),
        ]
        try:
            await self._store.apply(Transaction((Check(key, revision), Empty(uses)), ops))
        except CheckFailed as failure:
            if uses in failure.keys:
                raise InUse(f"Volume {volume.name} is joined elsewhere.", kind="volume", id=volume.name) from None

    async def _forget_rest(self, name: str, vchs: Sequence[str]) -> None:
        networks = [
            row.key
            for vch in vchs
            for row in await self._store.range(keys.entities(vch, "hosts"))
            if keys.last(row.key) == name
        ]
        gone = [
            row.key
            for prefix in (keys.gone("networks", name), keys.gone("volumes", name), keys.ports(name))
            for row in await self._store.range(prefix)
        ]
        ops = [Delete(key) for key in (*networks, *gone, keys.room(name), keys.host(name))]
        await self._store.apply(Transaction(ops=ops))
