"""Tenants as the service has them: made, looked at, changed, deleted.

Deleting a VCH writes `deleting` into its record, and from then on no call gets in. What is in it goes by departures.py;
the last part is here: all other keys, and at the very end the record.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

import msgspec

from portlayer.components import keys
from portlayer.components.grants import Grants
from portlayer.components.making import Making
from portlayer.components.quota import check_quota
from portlayer.components.records import Records, decode, encode, event, event_puts, next_change, put
from portlayer.components.tenants import Tenant, VchRecord
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.model import names
from portlayer.model import service as m
from portlayer.model.base import now
from portlayer.model.caller import DEFAULT_VCH, Caller
from portlayer.model.errors import AlreadyExists, Conflict, InUse, InvalidArgument, NotFound, Unavailable
from portlayer.model.execution import replace

CONTENTS = ("containers", "intents", "networks", "volumes", "images", "kv")
"""What a VCH must not have to be deleted without force. What else there is, is only about these."""
GONE_SECONDS = 120.0
PART_SECONDS = 5.0
FAREWELL_SECONDS = 60.0
BATCH = 100


class Vchs:
    """Makes, changes and deletes VCHs. grants: those of a VCH go with it."""

    def __init__(self, making: Making, grants: Iterable[Grants]) -> None:
        self._store = making.records.store
        self._records = making.records
        self._tenants = making.records.tenants
        self._quotas = making.quotas
        self._replays = making.replays
        self._failpoints = making.failpoints
        self._grants = tuple(grants)

    async def all(self) -> list[VchRecord]:
        """Every VCH, also those that are being deleted, by name."""
        return [decode(VchRecord, row.value) for row in await self._store.range(keys.VCHS)]

    async def view(self, record: VchRecord) -> m.Vch:
        """A VCH as the API shows it."""
        used = await self._quotas.usage(record.name)
        usage = m.Usage(
            **{**used, "cpus": float(used["cpus"])},  # type: ignore[arg-type]
            volumes=await self._store.count(keys.entities(record.name, "volumes")),
            images=await self._store.count(keys.entities(record.name, "images")),
        )
        return _view(record, usage)

    async def find(self, ref: str, *, whole: bool = False) -> Tenant:
        """As it is now, also one that is being deleted. whole: to write it anew. Raises NotFound."""
        found = await self._tenants.read(ref, whole=whole)
        if found is None:
            raise NotFound(f"There is no VCH called {ref[:140]!r}.", kind="vch", id=ref)
        return found

    async def create(self, caller: Caller, request: m.CreateVch) -> m.Vch:
        """Raises AlreadyExists, InvalidArgument."""
        return await self._replays.once(caller, "vch", request, m.Vch, self._create)

    async def _create(self, caller: Caller, request: m.CreateVch) -> tuple[m.Vch, list[Check], list[Put]]:  # noqa: ARG002
        name = names.check_name(request.name)
        quota = check_quota(request.quota)
        nobody = Check(keys.vch(name), 0)
        # what is swept are the last words of an earlier one of this name
        if await self._tenants.read(name) is not None or not await self._swept(name, nobody):
            raise AlreadyExists(f"A VCH called {name} is there already.", kind="vch", id=name)
        record = VchRecord(name=name, id=names.new_id(), created_at=now(), quota=quota)
        puts = [put(keys.vch(name), record), *event_puts(name, event("vch", "created", record.id, name))]
        nothing = m.Usage(
            containers=0, cpus=0, memory_bytes=0, storage_bytes=0, networks=0, addresses=0, volumes=0, images=0
        )
        return _view(record, nothing), [nobody], puts

    async def update(self, request: m.UpdateVch) -> m.Vch:
        """Raises NotFound, Conflict (if_match), InvalidArgument."""
        while True:
            tenant = await self.find(request.ref, whole=True)
            record = tenant.record
            if record.state != "active":
                raise NotFound(f"VCH {record.name} is being deleted.", kind="vch", id=record.name)
            _check_etag(record, request.if_match)
            wanted = {
                name: limit
                for name in record.quota.__struct_fields__
                if (limit := getattr(request.quota, name)) is not msgspec.UNSET
            }
            quota = check_quota(replace(record.quota, **wanted))
            if quota == record.quota:
                return await self.view(record)
            changed = [name for name in wanted if getattr(quota, name) != getattr(record.quota, name)]
            told = event("vch", "updated", record.id, record.name, changes=",".join(changed))
            record = replace(record, quota=quota, version=record.version + 1)
            if await self._write(tenant, record, *event_puts(record.name, told)):
                return await self.view(record)

    async def delete(self, request: m.DeleteVch) -> None:
        """Raises NotFound, Conflict (if_match), InUse, and Unavailable where it takes long: it goes on by itself."""
        if request.ref == DEFAULT_VCH:
            raise InvalidArgument(f"The VCH {DEFAULT_VCH} is always there; delete what is in it.", pointer="/ref")
        while True:
            tenant = await self.find(request.ref)
            record = tenant.record
            _check_etag(record, request.if_match)
            if record.state == "deleting":
                break
            empty = () if request.force else [Empty(keys.entities(record.name, kind)) for kind in CONTENTS]
            told = event_puts(record.name, event("vch", "deleting", record.id, record.name))
            if await self._write(
                tenant, replace(record, state="deleting", version=record.version + 1), *told, also=empty
            ):
                break
            if not request.force:
                await self._refuse_used(record.name)
        await self._failpoints.hit("vch.deleting")
        if not await self._until_gone(record):
            raise Unavailable(
                f"VCH {record.name} is being deleted, but it has not gone yet; it will by itself.",
                retry_after_seconds=5,
            )

    async def forget_vch(self, tenant: Tenant) -> None:
        """The end of a VCH: what the components leave, then its record.

        Those who follow its events see `vch.removed`, which vanishes soon. Raises Unavailable while others still have
        something in it.
        """
        vch = tenant.record.name
        for kind in ("containers", "intents", "networks", "volumes", "images"):
            if not await self._records.until_gone(keys.entities(vch, kind), PART_SECONDS):
                raise Unavailable(f"VCH {vch} still has {kind}.")
        for grants in self._grants:
            await grants.forget_vch(tenant)
        if not await self._swept(vch, tenant.unchanged):
            return  # another process has done it
        await self._failpoints.hit("vch.swept")
        told = event_puts(vch, event("vch", "removed", tenant.id, vch), seconds=FAREWELL_SECONDS)
        ops: list[Put | Delete] = [Delete(keys.vch(vch)), *told]
        with contextlib.suppress(CheckFailed):  # another process has done it
            await self._store.apply(Transaction((tenant.unchanged,), ops))

    async def _write(self, tenant: Tenant, record: VchRecord, *puts: Put, also: list[Empty] | tuple[()] = ()) -> bool:
        """Whether *record* has taken the place of *tenant*."""
        ops = (Put(keys.vch(record.name), encode(record)), *puts)
        try:
            await self._store.apply(Transaction((tenant.unchanged, *also), ops))
        except CheckFailed:
            return False
        self._tenants.forget(record.name)
        return True

    async def _refuse_used(self, name: str) -> None:
        counts = {kind: await self._store.count(keys.entities(name, kind)) for kind in CONTENTS}
        users = [f"{count} {kind}" for kind, count in counts.items() if count and kind != "intents"]
        if users or counts["intents"]:
            held = ", ".join(users) or "a commit under way"
            raise InUse(
                f"VCH {name} has {held}; remove them first, or delete it with force.", kind="vch", id=name, users=users
            )

    async def _swept(self, name: str, still: Check) -> bool:
        """Whether all keys under *name* are deleted; False where they are another VCH's than *still* demands."""
        while rows := await self._store.range(keys.all_of(name), limit=BATCH):
            try:
                await self._store.apply(Transaction((still,), [Delete(row.key) for row in rows], durable=False))
            except CheckFailed:
                return False
        return True

    async def _until_gone(self, record: VchRecord) -> bool:
        """Whether the VCH went in time; a later one of its name is another."""
        try:
            async with (
                asyncio.timeout(GONE_SECONDS),
                contextlib.aclosing(self._store.watch(keys.vch(record.name))) as changes,
            ):
                while (found := await self._tenants.read(record.name)) is not None and found.id == record.id:
                    if await next_change(changes) is None:
                        return False
        except TimeoutError:
            return False
        return True


async def ensure_vch(records: Records, name: str, created_at: str) -> None:
    """The tenant *name* exists."""
    record = VchRecord(name=name, id=names.new_id(), created_at=created_at)
    with contextlib.suppress(CheckFailed):
        await records.store.apply(Transaction((Check(keys.vch(name), 0),), (put(keys.vch(name), record),)))


def _view(record: VchRecord, usage: m.Usage) -> m.Vch:
    return m.Vch(
        name=record.name,
        id=record.id,
        state=record.state,
        quota=record.quota,
        usage=usage,
        version=record.version,
        created_at=record.created_at,
    )


def _check_etag(record: VchRecord, if_match: str | None) -> None:
    if if_match not in (None, "*", str(record.version)):
        raise Conflict(f"{record.name} has another ETag; read it again.", id=record.name, collisions=["etag"])
