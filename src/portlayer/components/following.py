"""Records under a prefix as they were last known: read once, and kept true by a watch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from portlayer.components import keys
from portlayer.components.records import decode
from portlayer.interfaces.store import Compacted, Store, Watch
from portlayer.model.base import Value
from portlayer.model.errors import PortlayerError, Unavailable

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
    """What is under *prefix*, of type *kind*; known: by the last part of the key. *changed* is called with each change.

    While the store is away, what was last known stays known. So it does where another version of us has written what
    makes no sense here.
    """

    def __init__(self, store: Store, prefix: str, kind: type[T], changed: Callable[[], None]) -> None:
        self.known: dict[str, T] = {}
        self._store = store
        self._prefix = prefix
        self._kind = kind
        self._changed = changed
        self._unread: set[str] = set()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read, and follow from then on. Raises Unavailable where the store is away."""
        changes = self._store.watch(self._prefix)
        await self.read()
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
                        self._changed()
            except Compacted:
                log.info("what is under %s is read anew", self._prefix)
            except PortlayerError as error:
                log.warning("what is under %s cannot be followed now: %s", self._prefix, error)
            except Exception:
                log.exception("a fault has ended the following of what is under %s; it begins anew", self._prefix)
            else:
                return
            changes = await self._begin_again()

    async def _begin_again(self) -> Watch:
        """What comes from now on; what is there is known. Neither is of use without the other."""
        while True:
            await asyncio.sleep(AGAIN_SECONDS)
            changes = self._store.watch(self._prefix)
            try:
                await self.read()
            except PortlayerError as error:
                log.warning("what is under %s cannot be read now: %s", self._prefix, error)
            except Exception:
                log.exception("a fault has ended the reading of what is under %s; it begins anew", self._prefix)
            else:
                return changes
            await changes.aclose()

    def _note(self, key: str, value: bytes | None) -> None:
        """What another version has written so that it makes no sense here leaves what was known before."""
        name = keys.last(key)
        if value is None:
            self.known.pop(name, None)
            self._unread.discard(name)
            return
        try:
            self.known[name] = decode(self._kind, value)
        except Unavailable as error:
            if name not in self._unread:
                log.warning("%s is not followed: %s", key, error)
            self._unread.add(name)
        else:
            self._unread.discard(name)

    async def read(self) -> None:
        """Look again what there is. Raises Unavailable where the store is away."""
        rows = await self._store.range(self._prefix)
        there = {keys.last(row.key) for row in rows}
        self.known = {name: value for name, value in self.known.items() if name in there}
        for row in rows:
            self._note(row.key, row.value)
        self._changed()
