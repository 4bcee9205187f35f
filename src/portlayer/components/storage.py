"""Storage: images, volumes, and what of them a container has."""

from __future__ import annotations

import asyncio
import logging
import posixpath
from collections.abc import AsyncIterator
from pathlib import Path

from portlayer.components import keys
from portlayer.components.admission import Gate, Held, Place
from portlayer.components.blobs import Blobs
from portlayer.components.drafts import Drafts, Preview
from portlayer.components.enduring import endure
from portlayer.components.imports import Importer, layer_keys
from portlayer.components.making import Making
from portlayer.components.membership import Membership
from portlayer.components.placing import Placing
from portlayer.components.records import cut, decode, decode_whole, event, event_puts, label_filter, put
from portlayer.components.tenants import Tenant
from portlayer.components.unexplained import remove_unknown_volumes
from portlayer.components.volumes import STORE, Volumes
from portlayer.interfaces.storage import Report
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.interfaces.substrate import StorageDriver
from portlayer.model import changes as c
from portlayer.model import names
from portlayer.model import storage as m
from portlayer.model.access import allows, masked
from portlayer.model.caller import Caller
from portlayer.model.errors import (
    InUse,
    InvalidArgument,
    InvalidState,
    NotFound,
    PortlayerError,
    SubstrateFailed,
)
from portlayer.model.execution import replace
from portlayer.model.limits import check_path, check_subpath

log = logging.getLogger(__name__)
RESERVED = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


class LocalBlob(Held[bytes]):
    """Implements interfaces.storage.Blob; holds a place among the streams."""

    def __init__(self, place: Place, pieces: AsyncIterator[bytes], size_bytes: int) -> None:
        super().__init__(place, pieces)
        self.size_bytes = size_bytes


class LocalStorage:
    """Implements interfaces.storage.Storage. state: a directory for uploads, and for what is kept of them."""

    def __init__(
        self,
        drafts: Drafts,
        making: Making,
        driver: StorageDriver,
        state: Path,
        imports: Gate,
        streams: Gate,
        placing: Placing,
        membership: Membership,
        period_seconds: float,
    ) -> None:
        self._drafts = drafts
        self._records = drafts.records
        self._store = drafts.records.store
        self._driver = driver
        self._failpoints = making.failpoints
        self._imports = imports
        self._streams = streams
        self._placing = placing
        self._membership = membership
        self._period = period_seconds
        self._sweeping: asyncio.Task[None] | None = None
        self._volumes = Volumes(making, driver, placing, membership.host)
        self._blobs = Blobs(state / "blobs")
        self._importer = Importer(
            *(self._store, making.quotas, making.replays, driver, state / "uploads", self._blobs, making.failpoints)
        )

    async def start(self, *, alone: bool) -> None:
        """alone: no other process has storage, so layers and volumes that no record explains are of calls that died."""
        if alone:
            await self._importer.start()
            await remove_unknown_volumes(self._store, self._driver)
        self._sweeping = asyncio.create_task(endure("what calls have left is swept", self._sweep_often))

    async def close(self) -> None:
        """Finish what was begun."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self._imports.drain()

    async def sweep(self) -> None:
        """Remove what no record explains. While another process that has storage lives, it may be about to import with
        just that: then everything stays. Who has died is known once its lease is over."""
        if not await self._membership.others("storage"):
            await self._importer.sweep()
            await remove_unknown_volumes(self._store, self._driver)

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(self._period)
            try:
                await self.sweep()
            except (PortlayerError, OSError):
                log.exception("what died calls have left could not be removed; it will be tried again")

    # mutations

    async def join(self, caller: Caller, request: m.JoinVolume) -> m.HandleAnswer:
        preview = await self._drafts.open(caller, request.handle)
        volume = await self._records.find(m.Volume, caller.vch, "volumes", request.volume, "/volume")
        destination = check_path(request.destination, "/destination")
        if destination in RESERVED or any(destination.startswith(f"{path}/") for path in RESERVED):
            raise InvalidArgument(f"{destination} belongs to the container itself.", pointer="/destination")
        mount = m.MountSpec(
            volume=volume.id,
            volume_name=volume.name,
            destination=destination,
            read_only=request.read_only,
            subpath=check_subpath(request.subpath or ""),
            capacity_bytes=volume.capacity_bytes,
            volume_host=volume.host,
        )
        changes: list[c.AnyChange] = [c.AddMount(mount=mount)]
        if volume.host not in ("", preview.spec.host):
            changes.insert(0, self._move(preview, volume))
        return m.HandleAnswer(handle=self._drafts.seal(preview, *changes))

    def _move(self, preview: Preview, volume: m.Volume) -> c.PlaceContainer:
        """A container that was placed, and is not made yet, goes where its volume is. Raises InvalidState."""
        spec = preview.spec
        can_move = (
            preview.record is None and spec.placed and not any(mount.volume_host for mount in spec.mounts.values())
        )
        if not can_move or not self._placing.may_go(volume.host, spec):
            raise InvalidState(
                f"Volume {volume.name} lives on host {volume.host}, and {spec.name} is to be on {spec.host}; "
                f"create the container with host {volume.host}.",
                kind="volume",
                id=volume.name,
            )
        return c.PlaceContainer(host=volume.host)

    async def leave(self, caller: Caller, request: m.LeaveVolume) -> m.HandleAnswer:
        if (request.volume is None) == (request.destination is None):
            raise InvalidArgument("Give either volume or destination.", pointer="/volume")
        preview = await self._drafts.open(caller, request.handle)
        if request.destination is not None:
            leaving = [posixpath.normpath(request.destination)]
        else:
            ident = await self._records.resolve(caller.vch, "volumes", request.volume or "", "/volume")
            leaving = [path for path, mount in preview.spec.mounts.items() if mount.volume == ident]
            if not leaving:
                raise NotFound(f"{preview.spec.name} does not have this volume.", kind="mount", id=request.volume)
        changes = [c.RemoveMount(destination=path) for path in leaving]
        return m.HandleAnswer(handle=self._drafts.seal(preview, *changes))

    # images

    async def import_image(
        self,
        caller: Caller,
        request: m.ImportImage,
        body: AsyncIterator[bytes],
        report: Report | None = None,
    ) -> m.Images:
        await self._records.check_vch(caller.vch)
        report = report or (lambda _: None)
        return await self._imports.finish(caller.vch, lambda: self._importer.run(caller, request, body, report))

    async def list_images(self, caller: Caller, request: m.ListImages) -> m.Images:
        labels = label_filter(request.label)
        name = names.check_image_name(request.name, "?name") if request.name else None
        found, after = await self._records.page(
            m.Image,
            caller.vch,
            "images",
            lambda image: (name is None or name in image.names) and labels(image.config.labels),
            request.limit,
            request.after,
        )
        return m.Images(images=tuple(_shown_to(caller, image) for image in found), next=after)

    async def get_image(self, caller: Caller, request: m.ImageRef) -> m.Image:
        return _shown_to(caller, await self._records.find(m.Image, caller.vch, "images", request.ref))

    async def delete_image(self, caller: Caller, request: m.DeleteImage) -> None:
        while True:
            image = await self._records.find(m.Image, caller.vch, "images", request.ref)
            key = keys.entity(caller.vch, "images", image.id)
            record = await self._store.get(key)
            if record is None:
                continue
            image = decode_whole(m.Image, record.value)
            name = None if names.image_id(request.ref) else names.check_image_name(request.ref)
            if name is not None and name not in image.names:
                continue  # it has gone over to another image just now
            try:
                if name is not None and len(image.names) > 1:
                    await self._untag(caller.vch, image, name, record.revision)
                else:
                    await self._remove_image(caller.vch, image, record.revision, prune=request.prune)
            except CheckFailed as failure:
                uses = keys.uses(caller.vch, "images", image.id)
                if uses in failure.keys:
                    users = [keys.last(row.key) for row in await self._store.range(uses, limit=10)]
                    raise InUse(
                        f"Image {request.ref} is used by {len(users)} containers; remove them first.",
                        kind="image",
                        id=request.ref,
                        users=users,
                    ) from None
                continue
            return

    async def _untag(self, vch: str, image: m.Image, name: str, revision: int) -> None:
        key = keys.entity(vch, "images", image.id)
        left = replace(image, names=tuple(other for other in image.names if other != name))
        ops: list[Put | Delete] = [
            put(key, left),
            Delete(keys.name(vch, "images", name)),
            *event_puts(vch, event("image", "untagged", image.id, name)),
        ]
        await self._store.apply(Transaction((Check(key, revision),), ops))

    async def _remove_image(self, vch: str, image: m.Image, revision: int, *, prune: bool) -> None:
        key = keys.entity(vch, "images", image.id)
        ops: list[Put | Delete] = [
            Delete(key),
            *(Delete(keys.name(vch, "images", name)) for name in image.names),
            *(Delete(used) for used in layer_keys(image, vch)),
            *event_puts(vch, event("image", "removed", image.id, image.names[0] if image.names else image.id)),
        ]
        uses = Empty(keys.uses(vch, "images", image.id))
        await self._store.apply(Transaction((uses, Check(key, revision)), ops))
        await self._failpoints.hit("image.deleted")
        if prune:
            await self._importer.prune(
                [layer.diff_id for layer in image.layers], [layer.digest for layer in image.layers]
            )

    async def get_layer(self, caller: Caller, request: m.LayerRef) -> LocalBlob:
        await self._records.check_vch(caller.vch)
        digest = request.digest
        if not (names.is_digest(digest) and await self._store.count(keys.blob_users(digest, caller.vch))):
            raise _no_layer(digest)
        place = await self._streams.admit(caller.vch)
        try:
            size, pieces = await self._blobs.open(digest, request.offset)
        except BaseException as error:
            place.leave()
            if isinstance(error, FileNotFoundError):  # its last image went just now
                raise _no_layer(digest) from None
            if isinstance(error, OSError):
                why = f"The layer cannot be read: {error.strerror}."
                raise SubstrateFailed(why, step="storage.getLayer") from error
            raise
        return LocalBlob(place, pieces, size)

    async def image_stores(self, caller: Caller, request: m.ListStores) -> m.ImageStores:
        await self._records.check_vch(caller.vch)
        page, after = cut((STORE,), lambda store: store.name, request.limit, request.after)
        return m.ImageStores(image_stores=page, next=after)

    # volumes

    async def create_volume(self, caller: Caller, request: m.CreateVolume) -> m.Volume:
        return await self._volumes.create(caller, request)

    async def list_volumes(self, caller: Caller, request: m.ListVolumes) -> m.Volumes:
        return await self._volumes.page(caller, request)

    async def get_volume(self, caller: Caller, request: m.VolumeRef) -> m.Volume:
        return await self._volumes.get(caller, request)

    async def delete_volume(self, caller: Caller, request: m.VolumeRef) -> None:
        await self._volumes.remove(caller.vch, await self._volumes.get(caller, request))

    async def forget_vch(self, tenant: Tenant) -> None:
        """Remove all images and volumes of a VCH that is being deleted. Raises InUse while it has containers."""
        await self._volumes.forget_vch(tenant)
        for row in await self._records.left(tenant, "images"):
            await self._remove_image(tenant.record.name, decode(m.Image, row.value), row.revision, prune=True)

    async def volume_stores(self, caller: Caller, request: m.ListStores) -> m.VolumeStores:
        await self._records.check_vch(caller.vch)
        page, after = cut((STORE,), lambda store: store.name, request.limit, request.after)
        return m.VolumeStores(volume_stores=page, next=after)


def _shown_to(caller: Caller, image: m.Image) -> m.Image:
    """*image*, as a container of it is shown: a viewer is told which variables there are, and not what they hold."""
    if allows(caller.role, "user"):
        return image
    return replace(image, config=replace(image.config, env=masked(image.config.env)))


def _no_layer(digest: str) -> NotFound:
    return NotFound(f"No image has a layer {digest[:100]!r}.", kind="layer", id=digest)
