"""Volumes: their records, and the driver's part where this host has them. Another host's it asks for, by a key."""

from __future__ import annotations

import contextlib

from portlayer.components import keys
from portlayer.components.making import Making
from portlayer.components.placing import Placing
from portlayer.components.records import decode, event, event_puts, label_filter, put
from portlayer.components.tenants import Tenant
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.interfaces.substrate import StorageDriver
from portlayer.model import names
from portlayer.model import storage as m
from portlayer.model.base import now
from portlayer.model.caller import Caller
from portlayer.model.errors import InUse, NotFound, Unavailable
from portlayer.model.limits import check_capacity

STORE = m.StoreInfo(name="default", driver="directory")
GONE_SECONDS = 20.0


class Volumes:
    """The volumes of all VCHs. host: this one's name."""

    def __init__(self, making: Making, driver: StorageDriver, placing: Placing, host: str) -> None:
        self._making = making
        self._records = making.records
        self._store = making.records.store
        self._driver = driver
        self._placing = placing
        self._host = host

    async def create(self, caller: Caller, request: m.CreateVolume) -> m.Volume:
        return await self._making.once(caller, "volume", request, m.Volume, self._create)

    async def _create(self, caller: Caller, request: m.CreateVolume) -> tuple[m.Volume, list[Check], list[Put]]:
        if request.store not in (None, STORE.name):
            raise NotFound(f"There is no volume store {request.store!r}.", kind="volumeStore", id=request.store)
        if request.capacity_bytes is not None:
            check_capacity(request.capacity_bytes)
            await self._check_capacity(request.host)
        if request.host is not None:
            self._placing.known(names.check_name(request.host, "/host"))
        ident = names.new_id()
        volume = m.Volume(
            id=ident,
            name=f"v-{ident[:12]}" if request.name is None else names.check_name(request.name),
            store=STORE.name,
            labels=names.check_labels(request.labels),
            anonymous=request.name is None,
            capacity_bytes=request.capacity_bytes,
            created_at=now(),
            host=request.host or "",
        )
        name_key = await self._making.check_name(caller.vch, "volume", volume.name)
        quota = await self._making.quotas.claim(caller.vch, {"storage_bytes": request.capacity_bytes or 0}, again=True)
        puts = [
            put(keys.entity(caller.vch, "volumes", ident), volume),
            Put(name_key, ident.encode()),
            *event_puts(caller.vch, event("volume", "created", ident, volume.name)),
            *quota.puts,
        ]
        return volume, [Check(name_key, 0), *quota.checks], puts

    async def _check_capacity(self, host: str | None) -> None:
        if host in (None, self._host):
            await self._driver.check_capacity()
        else:
            self._placing.check_capacity(host or "")

    async def page(self, caller: Caller, request: m.ListVolumes) -> m.Volumes:
        labels = label_filter(request.label)
        found, after = await self._records.page(
            m.Volume,
            caller.vch,
            "volumes",
            lambda volume: request.name in (None, volume.name) and labels(volume.labels),
            request.limit,
            request.after,
        )
        return m.Volumes(volumes=found, next=after)

    async def get(self, caller: Caller, request: m.VolumeRef) -> m.Volume:
        return await self._records.find(m.Volume, caller.vch, "volumes", request.ref)

    async def forget_vch(self, tenant: Tenant) -> None:
        """Remove all of a VCH that is being deleted. Raises InUse while it has containers."""
        for row in await self._records.left(tenant, "volumes"):
            with contextlib.suppress(NotFound):
                await self.remove(tenant.record.name, decode(m.Volume, row.value))

    async def remove(self, vch: str, volume: m.Volume) -> None:
        key, uses = keys.entity(vch, "volumes", volume.id), keys.uses(vch, "volumes", volume.id)
        while True:
            row = await self._store.get(key)
            if row is None:
                raise NotFound("The volume has been removed.", kind="volume", id=volume.name)
            volume = decode(m.Volume, row.value)
            gone = f"{keys.gone('volumes', volume.host)}{volume.id}"
            elsewhere = volume.host not in ("", self._host)
            ops: list[Put | Delete] = [
                Delete(key),
                Delete(keys.name(vch, "volumes", volume.name)),
                Delete(keys.entity(vch, "written", volume.id)),
                *event_puts(vch, event("volume", "removed", volume.id, volume.name)),
                *([Put(gone, b"")] if elsewhere else []),
            ]
            try:
                await self._store.apply(Transaction((Empty(uses), Check(key, row.revision)), ops))
                break
            except CheckFailed as failure:
                if uses in failure.keys:
                    raise await self._in_use(volume, uses) from None
        await self._making.failpoints.hit("volume.deleted")
        if elsewhere:
            await self._until_gone(volume, gone)
        else:
            await self._driver.remove_volume(volume.id)

    async def _in_use(self, volume: m.Volume, uses: str) -> InUse:
        users = [keys.last(row.key) for row in await self._store.range(uses, limit=10)]
        return InUse(
            f"Volume {volume.name} is joined to a container; let it leave first.",
            kind="volume",
            id=volume.name,
            users=users,
        )

    async def _until_gone(self, volume: m.Volume, gone: str) -> None:
        """Its host removes it: now, or, where it is away, as soon as it is back."""
        if self._placing.is_there(volume.host) and not await self._records.until_gone(gone, GONE_SECONDS):
            raise Unavailable(
                f"{volume.name} is deleted, but host {volume.host} has not let go of it yet; it will by itself.",
                retry_after_seconds=5,
            )
