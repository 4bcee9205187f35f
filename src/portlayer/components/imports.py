"""Images in: from an archive that streams in to layers on disk and a record that names them.

Layers go first, and their blobs, the record last: an import that dies leaves such as no image uses, and the next start
removes them.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

from portlayer.components import keys
from portlayer.components.archives import ArchivedImage, ArchivedLayer, open_layer, read_archive, read_config
from portlayer.components.blobs import Blobs
from portlayer.components.footprint import Room
from portlayer.components.quota import Quotas
from portlayer.components.records import decode_whole, event, event_puts, put
from portlayer.components.replays import Replays, digest_of
from portlayer.failpoints import Failpoints
from portlayer.interfaces.storage import Report
from portlayer.interfaces.store import Check, CheckFailed, Delete, Put, Store, Transaction
from portlayer.interfaces.substrate import StorageDriver
from portlayer.model import storage as m
from portlayer.model.base import now
from portlayer.model.caller import Caller
from portlayer.model.errors import ResourceExhausted, SubstrateFailed, Unavailable
from portlayer.model.execution import replace
from portlayer.model.names import new_id

_KIND = "image"
BODY_IDLE_SECONDS = 60.0


class Importer:
    """Imports archives, and removes layers and blobs that no image uses.

    staging: a directory for what streams in, on the disk of *blobs*.
    """

    def __init__(
        self,
        store: Store,
        quotas: Quotas,
        replays: Replays,
        driver: StorageDriver,
        staging: Path,
        blobs: Blobs,
        failpoints: Failpoints,
    ) -> None:
        self._store = store
        self._quotas = quotas
        self._replays = replays
        self._driver = driver
        self._staging = staging
        self._blobs = blobs
        self._failpoints = failpoints
        self._reading: set[str] = set()
        self._pinned: collections.Counter[str] = collections.Counter()
        self._pruning = asyncio.Lock()

    async def start(self) -> None:
        """Remove what imports that died have left."""
        await asyncio.to_thread(shutil.rmtree, self._staging, ignore_errors=True)
        await asyncio.to_thread(self._staging.mkdir, mode=0o700, parents=True)
        await self._blobs.start()
        await self.sweep()

    async def sweep(self) -> None:
        """Remove what imports and deletions that died, or could not reach the store, have left; no other process
        imports. The disk is read before the records, and each that seems to have no user is looked at once more."""
        for name in set(await asyncio.to_thread(os.listdir, self._staging)) - self._reading:
            await asyncio.to_thread(shutil.rmtree, self._staging / name, ignore_errors=True)
        layers, blobs = await self._driver.layers(), await self._blobs.digests()
        having = [row.key.split("/") for rows in await self._store.ranges([keys.LAYERS, keys.BLOBS]) for row in rows]
        used = {(kind, digest) for _, kind, digest, *_ in having}
        await self.prune(
            [one for one in layers if ("layers", one) not in used], [one for one in blobs if ("blobs", one) not in used]
        )

    async def run(self, caller: Caller, request: m.ImportImage, body: AsyncIterator[bytes], report: Report) -> m.Images:
        """The images of the archive, recorded; or those of the first time, where the caller's key was used before. On
        failure nothing of it stays.

        Raises InvalidArgument where the key was used for another archive, and what `read_archive` raises.
        """
        digest = hashlib.sha256()
        counted = _counted(body, digest.update if caller.idempotency_key is not None else None, report)
        known = await self._replays.find(caller, _KIND)
        if known is not None:
            async for _ in counted:
                pass
            return known.answer_to(digest_of(_KIND, request, digest.digest()), m.Images)
        staging = self._staging / new_id()
        self._reading.add(staging.name)
        layers: list[ArchivedLayer] = []
        pins: list[str] = []
        replaced: set[str] = set()
        try:
            await asyncio.to_thread(staging.mkdir, mode=0o700)
            staged = (await self._quotas.room(caller.vch)).staged
            archived = await read_archive(counted, staging, name=request.name, format=request.format, staged=staged)
            await self._failpoints.hit("import.read")
            layers = [layer for image in archived for layer in image.layers]
            async with self._pruning:
                pins = [digest for layer in layers for digest in (layer.diff_id, layer.digest)]
                self._pinned.update(pins)
            room = await self._quotas.room(caller.vch)  # as it is after the upload
            for image in archived:
                await self._unpack(image, room, report)
            await self._failpoints.hit("import.unpacked")
            await self._blobs.keep({layer.digest: layer.path for layer in layers})
            await self._failpoints.hit("import.kept")
            asked = digest_of(_KIND, request, digest.digest())
            images = await self._record_all(caller, archived, room.sizes, asked, replaced)
            await self._failpoints.hit("import.recorded")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhausted(
                    "The disk is full; free some space and import again.", resource="disk"
                ) from error
            raise SubstrateFailed(f"The archive could not be kept: {error.strerror}.", step="import") from error
        finally:
            self._pinned.subtract(pins)
            self._pinned += collections.Counter()
            await asyncio.shield(self._clean(staging, layers, replaced))
        return images

    async def _clean(self, staging: Path, layers: list[ArchivedLayer], replaced: set[str]) -> None:
        await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
        self._reading.discard(staging.name)
        await self.prune([layer.diff_id for layer in layers], {*(layer.digest for layer in layers), *replaced})

    async def _unpack(self, image: ArchivedImage, room: Room, report: Report) -> None:
        """Every layer is read and verified, also one that is on disk: what another VCH has is gained by having it, and
        neither by naming it nor by finding out that it is there.
        """
        for layer in image.layers:
            report(m.Progress(status="unpacking", id=layer.digest, total=layer.size_bytes))
            async with contextlib.aclosing(open_layer(layer)) as tar:
                await self._driver.put_layer(layer.diff_id, room.measured(layer.diff_id, tar))
            report(m.Progress(status="unpacked", id=layer.digest, done=layer.size_bytes, total=layer.size_bytes))

    async def _record_all(
        self,
        caller: Caller,
        archived: list[ArchivedImage],
        sizes: Mapping[str, int],
        request: str,
        replaced: set[str],
    ) -> m.Images:
        """The images one by one; with the last one, the answer to *request* for the caller's key. replaced: takes the
        digests of blobs in whose place an image has others now."""
        done: tuple[m.Image, ...] = ()
        for image in archived:
            recorded = await self._record(caller, image, sizes, done, request, replaced, last=image is archived[-1])
            if recorded is None:
                first = await self._replays.find(caller, _KIND)
                if first is None:
                    raise Unavailable("Others import with the same Idempotency-Key; try again.", retry_after_seconds=1)
                return first.answer_to(request, m.Images)
            done = (*done, recorded)
        return m.Images(images=done, next=None)

    async def _record(
        self,
        caller: Caller,
        archived: ArchivedImage,
        sizes: Mapping[str, int],
        before: tuple[m.Image, ...],
        request: str,
        replaced: set[str],
        *,
        last: bool,
    ) -> m.Image | None:
        """One image; None where an import with the same key was faster. before: what the archive had beside it and is
        recorded. last: that and this is the whole answer."""
        vch = caller.vch
        ident = archived.config_digest.removeprefix("sha256:")
        key = keys.entity(vch, "images", ident)
        while True:
            record = await self._store.get(key)
            known = decode_whole(m.Image, record.value) if record else None
            image = _image(ident, archived, known.names if known else (), sizes)
            gone = {layer.digest for layer in known.layers} if known else set()
            gone -= {layer.digest for layer in image.layers}
            quota = await self._quotas.claim_layers(vch, image.layers)
            name_keys = [keys.name(vch, "images", name) for name in image.names]
            rows = await self._store.get_many(name_keys)
            checks = [Check(key, record.revision if record else 0), *quota.checks]
            checks += [Check(name, row.revision if row else 0) for name, row in zip(name_keys, rows, strict=True)]
            ops: list[Put | Delete] = [*quota.puts, put(key, image), *(Put(name, ident.encode()) for name in name_keys)]
            ops += [Delete(keys.blob_user(digest, vch, ident)) for digest in gone]
            ops += [Put(key, b"") for key in layer_keys(image, vch)]
            taken = collections.defaultdict[str, set[str]](set)
            for name, row in zip(image.names, rows, strict=True):
                if row is not None and (owner := row.value.decode()) != ident:
                    taken[owner].add(name)
            for owner, lost in taken.items():
                await self._take_names(vch, owner, lost, checks, ops)
            ops += event_puts(
                vch, event("image", "imported", ident, next(iter((*archived.names, *image.names)), ident))
            )
            unused, kept = self._replays.keep(caller, _KIND, request, m.Images(images=(*before, image), next=None))
            try:
                await self._store.apply(Transaction([*checks, *unused], [*ops, *kept] if last else ops))
            except CheckFailed as failure:
                if any(check.key in failure.keys for check in unused):
                    return None
                continue
            replaced |= gone
            return image

    async def _take_names(
        self, vch: str, owner: str, lost: set[str], checks: list[Check], ops: list[Put | Delete]
    ) -> None:
        """The image that had the *lost* names so far stays, without them."""
        key = keys.entity(vch, "images", owner)
        record = await self._store.get(key)
        if record is not None:
            image = decode_whole(m.Image, record.value)
            checks.append(Check(key, record.revision))
            ops.append(put(key, replace(image, names=tuple(name for name in image.names if name not in lost))))

    async def prune(self, layers: Iterable[str], blobs: Iterable[str]) -> None:
        """Remove those of *layers* and *blobs* that no image uses and no import is about to."""
        for digest in dict.fromkeys(layers):
            async with self._pruning:
                if await self._unused(digest, keys.layer_users(digest)):
                    await self._driver.remove_layer(digest)
        for digest in dict.fromkeys(blobs):
            async with self._pruning:
                if await self._unused(digest, keys.blob_users(digest)):
                    await self._blobs.remove(digest)

    async def _unused(self, digest: str, users: str) -> bool:
        return not self._pinned[digest] and not await self._store.count(users)


def layer_keys(image: m.Image, vch: str) -> list[str]:
    """What says of the image's layers, and of their blobs, that they are used; an image may have one twice."""
    layers = {keys.layer_user(layer.diff_id, vch, image.id) for layer in image.layers}
    return [*layers, *{keys.blob_user(layer.digest, vch, image.id) for layer in image.layers}]


async def _counted(
    body: AsyncIterator[bytes], hashing: Callable[[bytes], None] | None, report: Report
) -> AsyncIterator[bytes]:
    """The *body*, as it is reported. Who sends nothing for too long does not keep others waiting."""
    done = 0
    while True:
        try:
            async with asyncio.timeout(BODY_IDLE_SECONDS):
                piece = await anext(body, None)
        except TimeoutError:
            raise Unavailable(
                f"Nothing of the archive came for {BODY_IDLE_SECONDS:g} seconds; import it again."
            ) from None
        if piece is None:
            return
        done += len(piece)
        if hashing is not None:
            hashing(piece)
        report(m.Progress(status="reading", done=done))
        yield piece


def _image(ident: str, archived: ArchivedImage, known: tuple[str, ...], sizes: Mapping[str, int]) -> m.Image:
    config = read_config(archived.config_bytes)
    return m.Image(
        id=ident,
        digest=archived.config_digest,
        names=tuple(dict.fromkeys((*known, *archived.names))),
        architecture=config.architecture,
        os=config.os,
        layers=tuple(
            m.Layer(
                digest=layer.digest,
                diff_id=layer.diff_id,
                size_bytes=layer.size_bytes,
                unpacked_bytes=sizes[layer.diff_id],
                media_type=layer.media_type,
            )
            for layer in archived.layers
        ),
        config=config.config,
        size_bytes=sum(layer.size_bytes for layer in archived.layers),
        created_at=config.created or now(),
    )
