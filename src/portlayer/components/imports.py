"""Images in: from an archive that streams in to layers on disk and a record that names them.

Layers go first, the record last: an import that dies leaves layers that no image uses, and the next start removes them.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from portlayer.components import keys
from portlayer.components.archives import ArchivedImage, open_layer, read_archive, read_config
from portlayer.components.records import decode, event, event_puts, put
from portlayer.failpoints import Failpoints
from portlayer.interfaces.storage import Report
from portlayer.interfaces.store import Check, CheckFailed, Delete, Put, Store, Transaction
from portlayer.interfaces.substrate import StorageDriver
from portlayer.model import storage as m
from portlayer.model.base import now
from portlayer.model.errors import ResourceExhausted, SubstrateFailed
from portlayer.model.execution import replace
from portlayer.model.names import new_id


class Importer:
    """Imports archives, and removes layers that no image uses. staging: a directory for what streams in."""

    def __init__(self, store: Store, driver: StorageDriver, staging: Path, failpoints: Failpoints) -> None:
        self._store = store
        self._driver = driver
        self._staging = staging
        self._failpoints = failpoints
        self._pinned: collections.Counter[str] = collections.Counter()

    async def start(self) -> None:
        """Remove what imports that died have left."""
        await asyncio.to_thread(shutil.rmtree, self._staging, ignore_errors=True)
        await asyncio.to_thread(self._staging.mkdir, mode=0o700, parents=True)
        await self.prune(await self._driver.layers())

    async def run(
        self, vch: str, request: m.ImportImage, body: AsyncIterator[bytes], report: Report
    ) -> tuple[m.Image, ...]:
        """The images of the archive, recorded. On failure nothing of it stays."""
        staging = self._staging / new_id()
        pins: list[str] = []
        try:
            await asyncio.to_thread(staging.mkdir, mode=0o700)
            counted = _counted(body, report)
            archived = await read_archive(counted, staging, name=request.name, format=request.format)
            await self._failpoints.hit("import.read")
            pins = [layer.diff_id for image in archived for layer in image.layers]
            self._pinned.update(pins)
            for image in archived:
                await self._unpack(image, report)
            await self._failpoints.hit("import.unpacked")
            images = [await self._record(vch, image) for image in archived]
            await self._failpoints.hit("import.recorded")
            return tuple(images)
        except OSError as error:
            # Also closing a file may find the disk full: what is buffered is written then.
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhausted(
                    "The disk is full; free some space and import again.", resource="disk"
                ) from error
            raise SubstrateFailed(f"The archive could not be kept: {error.strerror}.", step="import") from error
        finally:
            self._pinned.subtract(pins)
            self._pinned += collections.Counter()
            await asyncio.shield(self._clean(staging, pins))

    async def _clean(self, staging: Path, layers: list[str]) -> None:
        await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
        await self.prune(layers)

    async def _unpack(self, image: ArchivedImage, report: Report) -> None:
        for layer in image.layers:
            done = m.Progress(status="unpacked", id=layer.digest, done=layer.size_bytes, total=layer.size_bytes)
            if await self._driver.has_layer(layer.diff_id):
                report(replace(done, status="present"))
                continue
            report(m.Progress(status="unpacking", id=layer.digest, total=layer.size_bytes))
            await self._driver.put_layer(layer.diff_id, open_layer(layer))
            report(done)

    async def _record(self, vch: str, archived: ArchivedImage) -> m.Image:
        ident = archived.config_digest.removeprefix("sha256:")
        key = keys.entity(vch, "images", ident)
        while True:
            record = await self._store.get(key)
            known = decode(m.Image, record.value).names if record else ()
            image = _image(ident, archived, known)
            name_keys = [keys.name(vch, "images", name) for name in image.names]
            rows = await self._store.get_many(name_keys)
            checks = [Check(key, record.revision if record else 0)]
            checks += [Check(name, row.revision if row else 0) for name, row in zip(name_keys, rows, strict=True)]
            ops: list[Put | Delete] = [put(key, image), *(Put(name, ident.encode()) for name in name_keys)]
            ops += [Put(keys.layer_user(layer.diff_id, vch, ident), b"") for layer in image.layers]
            for name, row in zip(image.names, rows, strict=True):
                if row is not None and (owner := row.value.decode()) != ident:
                    await self._take_name(vch, owner, name, checks, ops)
            ops += event_puts(vch, event("image", "imported", ident, image.names[0] if image.names else ident))
            try:
                await self._store.apply(Transaction(checks, ops))
            except CheckFailed:
                continue
            return image

    async def _take_name(self, vch: str, owner: str, name: str, checks: list[Check], ops: list[Put | Delete]) -> None:
        """The image that had *name* so far stays, without it."""
        key = keys.entity(vch, "images", owner)
        record = await self._store.get(key)
        if record is not None:
            image = decode(m.Image, record.value)
            checks.append(Check(key, record.revision))
            ops.append(put(key, replace(image, names=tuple(other for other in image.names if other != name))))

    async def prune(self, layers: Iterable[str]) -> None:
        """Remove those of *layers* that no image uses and no import is about to."""
        for layer in dict.fromkeys(layers):
            if not self._pinned[layer] and not await self._store.count(keys.layer_users(layer)):
                await self._driver.remove_layer(layer)


async def _counted(body: AsyncIterator[bytes], report: Report) -> AsyncIterator[bytes]:
    done = 0
    async for piece in body:
        done += len(piece)
        report(m.Progress(status="reading", done=done))
        yield piece


def _image(ident: str, archived: ArchivedImage, known: tuple[str, ...]) -> m.Image:
    config = read_config(archived.config_bytes)
    return m.Image(
        id=ident,
        digest=archived.config_digest,
        names=tuple(dict.fromkeys((*known, *archived.names))),
        architecture=config.architecture,
        os=config.os,
        layers=tuple(
            m.Layer(
                digest=layer.digest, diff_id=layer.diff_id, size_bytes=layer.size_bytes, media_type=layer.media_type
            )
            for layer in archived.layers
        ),
        config=config.config,
        size_bytes=sum(layer.size_bytes for layer in archived.layers),
        created_at=config.created or now(),
    )
