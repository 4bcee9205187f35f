"""Storage over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec

from portlayer.interfaces.storage import Report
from portlayer.model import storage as m
from portlayer.model.caller import Caller
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.rest import problems
from portlayer.rest.calls import storage as calls
from portlayer.rest.client.connection import decoded, pieces
from portlayer.rest.client.remote import Remote
from portlayer.rest.client.stream import Stream


class RestStorage(Remote):
    """Implements interfaces.storage.Storage."""

    async def join(self, caller: Caller, request: m.JoinVolume) -> m.HandleAnswer:
        return await self._connection.call(calls.JOIN, caller, request)

    async def leave(self, caller: Caller, request: m.LeaveVolume) -> m.HandleAnswer:
        return await self._connection.call(calls.LEAVE, caller, request)

    async def import_image(
        self, caller: Caller, request: m.ImportImage, body: AsyncIterator[bytes], report: Report | None = None
    ) -> m.Images:
        upload = _Upload(body)
        accept = calls.PROGRESS if report else None
        try:
            response = await self._connection.open(
                calls.IMPORT_IMAGE, caller, request, accept=accept, data=upload.pieces()
            )
            async with response:
                return await _result(response, report)
        except PortlayerError:
            if upload.failure is not None:  # the cause: the connection was given up because of it
                raise upload.failure from None
            raise

    async def list_images(self, caller: Caller, request: m.ListImages) -> m.Images:
        return await self._connection.call(calls.LIST_IMAGES, caller, request)

    async def get_image(self, caller: Caller, request: m.ImageRef) -> m.Image:
        return await self._connection.call(calls.GET_IMAGE, caller, request)

    async def delete_image(self, caller: Caller, request: m.DeleteImage) -> None:
        await self._connection.call(calls.DELETE_IMAGE, caller, request)

    async def get_layer(self, caller: Caller, request: m.LayerRef) -> RestBlob:
        return RestBlob(await self._connection.open(calls.GET_LAYER, caller, request))

    async def create_volume(self, caller: Caller, request: m.CreateVolume) -> m.Volume:
        return await self._connection.call(calls.CREATE_VOLUME, caller, request)

    async def list_volumes(self, caller: Caller, request: m.ListVolumes) -> m.Volumes:
        return await self._connection.call(calls.LIST_VOLUMES, caller, request)

    async def get_volume(self, caller: Caller, request: m.VolumeRef) -> m.Volume:
        return await self._connection.call(calls.GET_VOLUME, caller, request)

    async def delete_volume(self, caller: Caller, request: m.VolumeRef) -> None:
        await self._connection.call(calls.DELETE_VOLUME, caller, request)

    async def image_stores(self, caller: Caller, request: m.ListStores) -> m.ImageStores:
        return await self._connection.call(calls.IMAGE_STORES, caller, request)

    async def volume_stores(self, caller: Caller, request: m.ListStores) -> m.VolumeStores:
        return await self._connection.call(calls.VOLUME_STORES, caller, request)


class RestBlob(Stream[bytes]):
    """Implements interfaces.storage.Blob."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        super().__init__(response, pieces(response))
        if response.content_length is None:
            response.close()
            raise Unavailable("The answer is not of this version of the API: it does not say its length.")
        self.size_bytes = response.content_length


class _Upload:
    """A body on its way, and what went wrong while it was read."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self.failure: Exception | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._body:
                yield piece
        except Exception as error:
            self.failure = error
            raise


async def _result(response: aiohttp.ClientResponse, report: Report | None) -> m.Images:
    """The images, from plain JSON or from the last of the progress lines."""
    if report is None or response.content_type != calls.PROGRESS:
        return _images(b"".join([piece async for piece in pieces(response)]))
    async for line in _lines(response):
        parsed: dict[str, Any] = decoded(dict[str, Any], line)
        if "problem" in parsed:
            raise problems.error_from(parsed["problem"])
        if "images" in parsed:
            return _images(line)
        report(msgspec.convert(parsed, m.Progress))
    raise Unavailable("The import broke off before its result; import again.", retry_after_seconds=1)


def _images(body: bytes) -> m.Images:
    images: m.Images = decoded(m.Images, body)
    return images


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length: the last one may list many layers."""
    rest = b""
    async for piece in pieces(response):
        *lines, rest = (rest + piece).split(b"\n")
        for line in filter(None, lines):
            yield line
