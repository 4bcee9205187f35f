"""The room of a host, and commits that are held to it.

    /room/<host>   empty: written by whoever takes of it and is held to it

Many may have been sent to the same last place. A commit that is held to the room reads that key's revision, adds up
what is taken, and lands only if nobody has written the key since: of those that race, as many win as have room. Held to
it is who asked for a placement, and everybody where the configuration bounds the host.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from portlayer.components import keys
from portlayer.components.commit.intents import Piece
from portlayer.components.hosts import HostBook
from portlayer.components.placing import is_bounded, share, taken_of
from portlayer.interfaces.store import Check, Store
from portlayer.model.execution import Resources
from portlayer.model.hosts import Capacity, fits, no_room


class Room:
    """What containers take of this host, and what may still be taken: asked by commits."""

    def __init__(self, store: Store, book: HostBook, host: str) -> None:
        self._store = store
        self._book = book
        self._host = host
        self._turn = asyncio.Lock()

    def _held(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Those of *pieces* that take more of the host than before, and are held to its room."""
        record = self._book.get(self._host)
        if record is None:
            return []
        bounded = is_bounded(record)
        growing = [piece for piece in pieces if not piece.removal and _grows(piece)]
        return [piece for piece in growing if bounded or (piece.old is None and piece.new.placement is not None)]

    @contextlib.asynccontextmanager
    async def turn(self, pieces: Sequence[Piece]) -> AsyncIterator[None]:
        """Hold off the others of this process that take of the same room: they would only make each other look
        again."""
        async with self._turn if self._held(pieces) else contextlib.nullcontext():
            yield

    async def claim(self, pieces: Sequence[Piece]) -> Check | None:
        """The demand that nobody takes of the room after it was found that there is enough; its key is to be written.
        None where nothing is held to it. Raises ResourceExhausted.
        """
        held = self._held(pieces)
        record = self._book.get(self._host)
        if not held or record is None:
            return None
        key = keys.room(self._host)
        while True:
            row = await self._store.get(key)
            check = Check(key, row.revision if row else 0)
            taken = await taken_of(self._store, self._host, besides=[piece.container for piece in held])
            wanted = Resources(
                cpus=sum(piece.new.resources.cpus or 0 for piece in held) or None,
                memory_bytes=sum(piece.new.resources.memory_bytes or 0 for piece in held) or None,
            )
            if fits(wanted, record.room, taken):
                return check
            row = await self._store.get(key)
            if check.revision == (row.revision if row else 0):
                raise no_room(wanted, f"Host {self._host} has no", "create it again, for another host")


def _grows(piece: Piece) -> bool:
    before = share(piece.old.resources) if piece.old else Capacity()
    after = share(piece.new.resources)
    return after.cpus > before.cpus or after.memory_bytes > before.memory_bytes
