"""Storage: images and volumes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

from portlayer.client.component import PAGE, Component, pages
from portlayer.client.handles import ContainerHandle
from portlayer.client.steps import Steps
from portlayer.client.streams import closing
from portlayer.interfaces.storage import Report
from portlayer.model import storage as m
from portlayer.model.errors import InvalidArgument

ArchiveFormat = Literal["auto", "oci", "docker", "rootfs"]
Archive = str | PathLike[str] | bytes | AsyncIterator[bytes]
_PIECE = 256 * 1024


class Storage(Component):
    """Images come in as archives; volumes outlive the containers that they are joined to."""

    async def join(
        self,
        container: ContainerHandle,
        volume: str,
        destination: str,
        *,
        read_only: bool = False,
        subpath: str | None = None,
    ) -> ContainerHandle:
        """Stage a volume at an absolute path in the container. subpath: a directory of the volume instead of all."""
        return await self._stage(
            Steps(container).join_volume(volume, destination, read_only=read_only, subpath=subpath)
        )

    async def leave(
        self, container: ContainerHandle, *, volume: str | None = None, destination: str | None = None
    ) -> ContainerHandle:
        """Stage that a volume goes, by its name or where it is."""
        return await self._stage(Steps(container).leave_volume(volume=volume, destination=destination))

    async def import_image(
        self,
        archive: Archive,
        *,
        name: str | None = None,
        format: ArchiveFormat = "auto",  # noqa: A002
        progress: Report | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[m.Image, ...]:
        """Import an archive: a path, its bytes, or pieces of them as they come. The images that it held.

        name: overrides the names in the archive; a rootfs needs one. progress: called for each step that is told.
        """
        request = m.ImportImage(name=name, format=format)
        caller = self._creating(idempotency_key)
        images = await self._components.storage.import_image(caller, request, _pieces(archive), progress)
        return images.images

    async def list_images(self, *, name: str | None = None, labels: Sequence[str] = ()) -> tuple[m.Image, ...]:
        """All images, by id. labels: filters `key` or `key=value`, all of which must hold."""

        async def ask(after: str | None) -> m.Images:
            request = m.ListImages(name=name, label=tuple(labels), limit=PAGE, after=after)
            return await self._components.storage.list_images(self._caller, request)

        return tuple([image async for page in pages(ask) for image in page.images])

    async def inspect_image(self, ref: str) -> m.Image:
        """An image, by name or id. Raises NotFound."""
        return await self._components.storage.get_image(self._caller, m.ImageRef(ref=ref))

    async def remove_image(self, ref: str, *, prune: bool = True) -> None:
        """Remove a name of an image, or by id all of it. prune: its layers too, where nothing uses them."""
        await self._components.storage.delete_image(self._caller, m.DeleteImage(ref=ref, prune=prune))

    async def get_layer(self, digest: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        """The blob of an image's layer, as it was imported, in pieces, from byte *offset* on. Raises NotFound where no
        image has it."""
        request = m.LayerRef(digest=digest, offset=offset)
        async with closing(await self._components.storage.get_layer(self._caller, request)) as pieces:
            async for piece in pieces:
                yield piece

    async def create_volume(
        self,
        name: str | None = None,
        *,
        store: str | None = None,
        labels: Mapping[str, str] | None = None,
        capacity_bytes: int | None = None,
        host: str | None = None,
        idempotency_key: str | None = None,
    ) -> m.Volume:
        """An empty volume, at once; without a name it is anonymous. host: where it lives; without, where it is used
        first."""
        request = m.CreateVolume(
            name=name, store=store, labels=dict(labels or {}), capacity_bytes=capacity_bytes, host=host
        )
        return await self._components.storage.create_volume(self._creating(idempotency_key), request)

    async def list_volumes(self, *, name: str | None = None, labels: Sequence[str] = ()) -> tuple[m.Volume, ...]:
        """All volumes, by id. labels: filters `key` or `key=value`, all of which must hold."""

        async def ask(after: str | None) -> m.Volumes:
            request = m.ListVolumes(name=name, label=tuple(labels), limit=PAGE, after=after)
            return await self._components.storage.list_volumes(self._caller, request)

        return tuple([volume async for page in pages(ask) for volume in page.volumes])

    async def inspect_volume(self, ref: str) -> m.Volume:
        """A volume, by name or id. Raises NotFound."""
        return await self._components.storage.get_volume(self._caller, m.VolumeRef(ref=ref))

    async def remove_volume(self, ref: str) -> None:
        """Remove a volume with its content. Raises InUse while a container has it joined."""
        await self._components.storage.delete_volume(self._caller, m.VolumeRef(ref=ref))

    async def image_stores(self) -> tuple[m.StoreInfo, ...]:
        """The configured image stores."""
        return (await self._components.storage.image_stores(self._caller, m.ListStores())).image_stores

    async def volume_stores(self) -> tuple[m.StoreInfo, ...]:
        """The configured volume stores."""
        return (await self._components.storage.volume_stores(self._caller, m.ListStores())).volume_stores


async def _pieces(archive: Archive) -> AsyncIterator[bytes]:
    if isinstance(archive, bytes):
        for start in range(0, len(archive), _PIECE):
            yield archive[start : start + _PIECE]
    elif isinstance(archive, str | PathLike):
        async for piece in _file(Path(archive)):
            yield piece
    else:
        async for piece in archive:
            yield piece


async def _file(path: Path) -> AsyncIterator[bytes]:
    try:
        stream = await asyncio.to_thread(path.open, "rb")
        with stream:
            while piece := await asyncio.to_thread(stream.read, _PIECE):
                yield piece
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}.") from None
