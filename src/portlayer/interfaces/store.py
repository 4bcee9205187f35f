"""The store: revisioned records, compare-and-swap transactions over several keys, leases, watches.

Keys are `/`-separated strings; values are bytes. Every transaction that lands gets a higher revision, a whole
number; the records it wrote carry it. A put with `ttl_seconds` is a lease: the record vanishes
when that time is over, unless it was put again; the deletion is a transaction of its own, seen by watchers.
Lease time is monotonic and stands still while no store process runs longer than a restart allows: a wall clock
that jumps must neither end nor prolong a lease, and after a reboot of the host a lease starts over with its whole time.
Where the process that gave a lease is no more, a store of several hosts may end it late, never early.

Example, an address that nobody else may have:

    await store.apply(Transaction(checks=(Check(key, 0),), ops=(Put(key, b"mine", ttl_seconds=60),)))

One suite, tests/conformance/store.py, holds every store to this text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec


class Record(msgspec.Struct, frozen=True):
    """A value in the store. revision: the transaction that wrote it last; created: that made it."""

    key: str
    value: bytes
    revision: int
    created: int


class Check(msgspec.Struct, frozen=True):
    """Demand on one key. revision 0: it is absent; None: it is there; else: it was last written at it."""

    key: str
    revision: int | None


class Empty(msgspec.Struct, frozen=True):
    """Demand that no key starts with `prefix`, other than `besides`."""

    prefix: str
    besides: str = ""


class Put(msgspec.Struct, frozen=True):
    """Write a record. ttl_seconds > 0: it vanishes after that time; None: it stays (and loses a ttl it had)."""

    key: str
    value: bytes
    ttl_seconds: float | None = None


class Delete(msgspec.Struct, frozen=True):
    """Remove a record; none being there is fine."""

    key: str


class Transaction(msgspec.Struct, frozen=True):
    """All checks hold and all ops happen, or nothing does.

    durable: it must survive a power failure once apply has returned. False is for what the substrate can tell
    again; it still survives the death of our process, and never becomes durable before an earlier transaction.
    """

    checks: Sequence[Check | Empty] = ()
    ops: Sequence[Put | Delete] = ()
    durable: bool = True


class Changed(msgspec.Struct, frozen=True):
    """One change as a watcher sees it. record is None for a deletion. index grows with the op's place."""

    revision: int
    index: int
    key: str
    record: Record | None


class CheckFailed(Exception):
    """A transaction's demands did not hold; nothing was written. `failed` lists those demands."""

    def __init__(self, failed: Sequence[Check | Empty]) -> None:
        super().__init__(f"{len(failed)} checks failed: {failed[:3]}")
        self.failed = tuple(failed)

    @property
    def keys(self) -> frozenset[str]:
        """The keys and prefixes that did not hold."""
        return frozenset(check.key if isinstance(check, Check) else check.prefix for check in self.failed)


class Compacted(Exception):
    """A watch or history from a revision that is no longer kept; start over from the present state."""


class Watch(Protocol):
    """Changes in order, without end; close it when done."""

    def __aiter__(self) -> AsyncIterator[Changed]: ...

    async def __anext__(self) -> Changed:
        """The next change, as soon as there is one. StopAsyncIteration once the store or the watch is closed."""

    async def aclose(self) -> None:
        """Unsubscribe."""


class Store(Protocol):
    """Revisioned records. Reads see every transaction whose apply has returned, and never a part of one."""

    name: str

    async def get(self, key: str) -> Record | None:
        """The record, or None."""

    async def get_many(self, keys: Sequence[str]) -> list[Record | None]:
        """The records of *keys*, in order, of one instant."""

    async def range(self, prefix: str, *, after: str = "", limit: int = 0) -> list[Record]:
        """Records whose key starts with *prefix* and is greater than *after*, by key. limit 0: all. One instant."""

    async def ranges(self, prefixes: Sequence[str]) -> list[list[Record]]:
        """As `range`, all of each of *prefixes*, of one instant."""

    async def count(self, prefix: str) -> int:
        """How many keys start with *prefix*."""

    async def since(self, prefix: str, revision: int, *, limit: int = 0) -> list[Record]:
        """Records under *prefix* last written after *revision*, by revision, then by place in the transaction."""

    async def revision(self) -> int:
        """The last revision; 0 for a new store."""

    async def apply(self, transaction: Transaction) -> int:
        """Run *transaction*; its revision.

        Raises:
            CheckFailed: a demand did not hold; nothing was written.
            InvalidArgument: an empty key, a key written twice, no valid Unicode, a ttl that is no positive number, a
                record too large for the store.
            Unavailable: the store cannot be reached or is full; whether it happened can be read back.
        """

    async def sync(self) -> None:
        """Return once all that was applied until now survives a power failure, durable or not.

        Raises Unavailable where that cannot be.
        """

    def watch(self, prefix: str, revision: int | None = None) -> Watch:
        """Changes under *prefix* after *revision* (None: from the call on), in order, until the iterator is closed.

        Subscribed when this returns: what is applied after that is seen. A watch that resumes, or lags far behind, may
        leave out puts that others have overwritten since; where it would leave out deletions, or starts at a revision
        that the store has not reached, it raises Compacted. A watcher that reads slowly never blocks apply.
        """

    async def close(self) -> None:
        """Stop; watches end."""
