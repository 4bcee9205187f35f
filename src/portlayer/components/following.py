"""Records under a prefix as they were last known: read once, and kept true by a watch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Generic, TypeVar

from portlayer.components import keys
from portlayer.components.records import decode
from portlayer.interfaces.store import Compacted, Store, Watch
from portlayer.model.base import Value
from portlayer.model.errors import PortlayerError

log = logging.getLogger(__name__)
T = TypeVar("T", bound=Value)
AGAIN_SECONDS = 1.0


class Bell:
    """Rings for all who wait at that time."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        self._waiting = None

    def next(self) -> asyncio.Future[None]:
        """Done with the next ring; whoever looks between this and waiting for it misses none."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        return self._waiting


class Followed(Generic[T]):
    """What is under *prefix*, of type *kind*; known: by the last part of the key. *bell* rings with each change.

    While the store is away, what was last known stays known.
    """

    def __init__(self, store: Store, prefix: str, kind: type[T], bell: Bell) -> None:
        self.known: dict[str, T] = {}
        self._store = store
        self._prefix = prefix
        self._kind = kind
        self._bell = bell
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read, and follow from then on."""
        changes = self._store.watch(self._prefix)
        await self._read()
        self._following = asyncio.create_task(self._follow(changes))

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self, changes: Watch) -> None:
        while True:
            try:
                async with contextlib.aclosing(changes):
                    async for change in changes:
                        self._note(change.key, None if change.record is None else change.record.value)
                        self._bell.ring()
            except Compacted:
                log.info("what is under %s is read anew", self._prefix)
            except PortlayerError as error:
                log.warning("what is under %s cannot be followed now: %s", self._prefix, error)
            else:
                return
            changes = await self._begin_again()

    async def _begin_again(self) -> Watch:
        """What comes from now on; what is there is known. Neither is of use without the other."""
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            changes = self._store.watch(self._prefix)
            try:
                await self._read()
            except PortlayerError as error:
                log.warning("what is under %s cannot be read now: %s", self._prefix, error)
                await changes.aclose()
            else:
                return changes

    def _note(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.known.pop(keys.last(key), None)
        else:
            self.known[keys.last(key)] = decode(self._kind, value)

    async def _read(self) -> None:
        rows = await self._store.range(self._prefix)
        self.known = {keys.last(row.key): decode(self._kind, row.value) for row in rows}
        self._bell.ring()
