"""Layers on a host: what a container's image needs comes before its filesystem is made, and goes when no image has it.

The storage component has each layer's blob. Where a host lacks a layer, the blob is fetched by its digest, on behalf of
the VCH whose image it is: into a file, verified, then unpacked, which verifies the diffID. A fetch that breaks off goes
on where it was. So memory is bounded, and whatever is cut short leaves nothing but a file that the next start removes.
Who wants what is being fetched waits.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from io import FileIO
from pathlib import Path

from portlayer.components import keys
from portlayer.components.admission import Gate
from portlayer.components.archives import ArchivedLayer, open_layer
from portlayer.components.hosts import HostBook
from portlayer.components.records import decode
from portlayer.failpoints import Failpoints
from portlayer.interfaces.storage import Blob, LayerSource
from portlayer.interfaces.store import Store
from portlayer.interfaces.substrate import StorageDriver
from portlayer.metrics import Counter, Metrics
from portlayer.model.bounds import Bounds
from portlayer.model.errors import InvalidArgument, NotFound, ResourceExhausted, SubstrateFailed, Unavailable
from portlayer.model.execution import ContainerSpec
from portlayer.model.names import new_id
from portlayer.model.storage import Image, Layer

log = logging.getLogger(__name__)
STEP = "layers"
IDLE_SECONDS = 60.0
FETCHES = Bounds(at_once=3, at_once_per_vch=2, queued=0, queued_per_vch=0)
"""How many layers a host fetches at once; the commits that wait for the others were admitted already."""
PAUSES = (0.2, 1.0, 3.0)
"""Seconds to wait before going on with a layer that broke off; then it is given up. A process of storage starts in less
than the sum."""
SILENCE_SECONDS = 10.0
"""Where nothing of a layer has come for so long, storage is cut off: the commit does not hang for it."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Layers:
    """The layers of *host*. staging: a directory for blobs on their way."""

    def __init__(
        self,
        store: Store,
        driver: StorageDriver,
        source: LayerSource,
        staging: Path,
        book: HostBook,
        host: str,
        failpoints: Failpoints,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._driver = driver
        self._source = source
        self._staging = staging
        self._book = book
        self._host = host
        self._failpoints = failpoints
        self._removing = asyncio.Lock()
        self._gate = Gate("fetches", FETCHES)
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._results = metrics.counter("layer_fetches_total", "Layers fetched from storage, by result.", ("result",))
        self._bytes = metrics.counter("layer_fetched_bytes_total", "Bytes of layers that came from storage.")
        self._breaks = metrics.counter("layer_fetch_breaks_total", "Fetches that broke off, and went on.")

    async def start(self, *, alone: bool) -> None:
        """alone: no other process fetches for this host; what one that died has left is removed."""
        if alone:
            await asyncio.to_thread(shutil.rmtree, self._staging, ignore_errors=True)
        await asyncio.to_thread(self._staging.mkdir, mode=0o700, parents=True, exist_ok=True)

    async def close(self) -> None:
        """Stop fetching."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def bring(
        self, container: ContainerSpec, waiting: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    ) -> None:
        """All layers of *container* are here, and stay for as long as its image has a use. waiting: within it they are
        fetched.

        Raises:
            Unavailable: storage is away. SubstrateFailed: what came is not the layer. ResourceExhausted: the disk is
            full. Nothing of it is kept then.
        """
        async with self._removing:  # what is found here is not just being removed
            lacking = [
                layer for layer in dict.fromkeys(container.image.layers) if not await self._driver.has_layer(layer)
            ]
        if lacking:
            async with waiting():
                await self._supply(container, lacking)

    async def _supply(self, container: ContainerSpec, lacking: Sequence[str]) -> None:
        row = await self._store.get(keys.entity(container.vch, "images", container.image.id))
        if row is None:
            raise NotFound("The image has been removed.", kind="image", id=container.image.name)
        layers = {layer.diff_id: layer for layer in decode(Image, row.value).layers}
        wants = (self._want(container.vch, layers[diff_id]) for diff_id in lacking)
        for result in await asyncio.gather(*wants, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _want(self, vch: str, layer: Layer) -> None:
        """Return once it is here. What another VCH fetches may fail for reasons of its own: then it is fetched anew."""
        while not await self._driver.has_layer(layer.diff_id):
            others = self._fetching.get(layer.diff_id)
            if others is not None:
                await asyncio.wait([others])
                continue
            task = asyncio.create_task(self._fetch(vch, layer))
            self._fetching[layer.diff_id] = task
            task.add_done_callback(lambda _: self._fetching.pop(layer.diff_id, None))
            await asyncio.shield(task)
            return

    async def _fetch(self, vch: str, layer: Layer) -> None:
        result = "failed"
        try:
            await self._install(vch, layer)
            result = "ok"
        finally:
            self._results.add(result)

    async def _install(self, vch: str, layer: Layer) -> None:
        file = self._staging / new_id()
        place = await self._gate.admit(vch, patient=True)
        try:
            log.info("layer %s is fetched", layer.digest)
            await self._download(vch, layer, file)
            await self._failpoints.hit("layer.fetched")
            blob = ArchivedLayer(file, layer.digest, layer.diff_id, layer.size_bytes, layer.media_type)
            async with aclosing(open_layer(blob)) as tar:
                await self._driver.put_layer(layer.diff_id, tar)
            await self._failpoints.hit("layer.unpacked")
        except InvalidArgument as error:
            raise SubstrateFailed(f"Layer {layer.digest} is not what its image says: {error}", step=STEP) from error
        except OSError as error:
            if error.errno in _FULL:
                raise ResourceExhausted("The disk is full; free space and try again.", resource="disk") from error
            raise SubstrateFailed(f"A layer could not be kept: {error.strerror}.", step=STEP) from error
        finally:
            place.leave()
            await asyncio.to_thread(file.unlink, missing_ok=True)

    async def _download(self, vch: str, layer: Layer, file: Path) -> None:
        """The blob into *file*, verified."""
        with await asyncio.to_thread(file.open, "wb", buffering=0) as out:
            copy = _Copy(layer, out, self._bytes)
            for pause in (*PAUSES, None):
                try:
                    await copy.take(await self._source.open(vch, layer.digest, copy.size))
                    break
                except Unavailable as error:
                    if pause is None or not copy.began or copy.silence > SILENCE_SECONDS:
                        raise
                    log.warning("layer %s broke off at byte %d: %s", layer.digest, copy.size, error.detail)
                self._breaks.add()
                await asyncio.sleep(pause)
        if not copy.is_whole:
            raise SubstrateFailed(
                f"What storage has of layer {layer.digest} is damaged; import the image again.", step=STEP
            )

    async def sweep(self) -> int:
        """Remove layers that no image has any more, so that no commit can want them; how many. On the host of storage
        that is for storage to do, which knows what is being imported."""
        if self._book.has_process(self._host, "storage"):
            return 0
        here = await self._driver.layers()
        used = {row.key.split("/")[2] for row in await self._store.range(keys.LAYERS)} if here else set()
        removed = 0
        for layer in (layer for layer in here if layer not in used):
            async with self._removing:
                if not await self._store.count(keys.layer_users(layer)):
                    await self._driver.remove_layer(layer)
                    removed += 1
        return removed


class _Copy:
    """What has come of a blob, into *out*. began: whether storage has answered at all."""

    def __init__(self, layer: Layer, out: FileIO, counter: Counter) -> None:
        self._layer = layer
        self._out = out
        self._counter = counter
        self._digest = hashlib.sha256()
        self._clock = asyncio.get_running_loop().time
        self._latest = self._clock()
        self.began = False
        self.size = 0

    async def take(self, blob: Blob) -> None:
        """Add all that comes, and close *blob*. Raises Unavailable where it breaks off, OSError."""
        self.began = True
        try:
            while (piece := await _piece(blob)) is not None and self.size <= self._layer.size_bytes:
                await asyncio.to_thread(_write, self._out, piece, self._digest.update)
                self.size += len(piece)
                self._latest = self._clock()
                self._counter.add(amount=len(piece))
        finally:
            await blob.aclose()

    @property
    def silence(self) -> float:
        """Seconds in which nothing has come."""
        return self._clock() - self._latest

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the layer, and nothing else."""
        return self.size == self._layer.size_bytes and f"sha256:{self._digest.hexdigest()}" == self._layer.digest


async def _piece(blob: Blob) -> bytes | None:
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            return await anext(blob, None)
    except TimeoutError:
        raise Unavailable(
            f"Nothing of the layer came for {IDLE_SECONDS:g} seconds; try again.", retry_after_seconds=5
        ) from None


def _write(out: FileIO, piece: bytes, hashing: Callable[[bytes], None]) -> None:
    hashing(piece)
    view = memoryview(piece)
    while view:
        view = view[out.write(view) :]
