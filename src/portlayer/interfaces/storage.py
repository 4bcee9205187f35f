"""Storage: images, volumes, and joining volumes to a container. Every call may raise the taxonomy's errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from portlayer.model import storage as m
from portlayer.model.caller import Caller

Report = Callable[[m.Progress], None]


class Blob(Protocol):
    """An AsyncIterator of the bytes of a blob in pieces; who does not read them to their end closes it. size_bytes:
    of all that comes."""

    size_bytes: int

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes: ...

    async def aclose(self) -> None:
        """Stop reading."""


class LayerSource(Protocol):
    """Gives execution the layers that its host lacks."""

    async def open(self, vch: str, digest: str, offset: int) -> Blob:
        """The blob of a layer that an image of *vch* has, from byte *offset* on. Raises NotFound where none has,
        Unavailable; so does what is read of it where it breaks off."""


class Storage(Protocol):
    async def join(self, caller: Caller, request: m.JoinVolume) -> m.HandleAnswer:
        """Record a volume at a destination. Raises NotFound, AlreadyExists, InvalidArgument (destination)."""

    async def leave(self, caller: Caller, request: m.LeaveVolume) -> m.HandleAnswer:
        """Take it away again."""

    async def import_image(
        self, caller: Caller, request: m.ImportImage, body: AsyncIterator[bytes], report: Report | None = None
    ) -> m.Images:
        """Import an archive as it streams in, plain, gzip or zstd; the images that it held.

        Raises InvalidArgument (corrupt, truncated, escaping, no layers), ResourceExhausted; then nothing is kept.
        """

    async def list_images(self, caller: Caller, request: m.ListImages) -> m.Images:
        """By id."""

    async def get_image(self, caller: Caller, request: m.ImageRef) -> m.Image:
        """By name or id."""

    async def delete_image(self, caller: Caller, request: m.DeleteImage) -> None:
        """Raises InUse while a container uses it."""

    async def get_layer(self, caller: Caller, request: m.LayerRef) -> Blob:
        """The blob of a layer, as it was imported, compressed or not.

        Raises NotFound where no image here has it, InvalidArgument where it ends before the offset.
        """

    async def create_volume(self, caller: Caller, request: m.CreateVolume) -> m.Volume:
        """An empty volume."""

    async def list_volumes(self, caller: Caller, request: m.ListVolumes) -> m.Volumes:
        """By id."""

    async def get_volume(self, caller: Caller, request: m.VolumeRef) -> m.Volume:
        """By name or id."""

    async def delete_volume(self, caller: Caller, request: m.VolumeRef) -> None:
        """Raises InUse while a container has it joined."""

    async def image_stores(self, caller: Caller, request: m.ListStores) -> m.ImageStores:
        """The configured image stores."""

    async def volume_stores(self, caller: Caller, request: m.ListStores) -> m.VolumeStores:
        """The configured volume stores."""
