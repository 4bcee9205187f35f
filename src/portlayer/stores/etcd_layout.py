"""How records stand in etcd, and revisions.

<prefix>/m/meta          Meta, JSON: version of this layout, and the revision that the store had when it was written
<prefix>/m/opened        written by each process that opens the store, so that its watch starts at a change of ours
<prefix>/m/big           a transaction beyond etcd's limits, under way (see etcd_staging)
<prefix>/m/step          written with each step of it: what else happens at that revision is no change of its own
<prefix>/m/chunks/...    parts of it
<prefix>/r<key>          a record: header, value

A revision of the store is etcd's plus a constant that follows from Meta, so that it goes on growing where a store
was moved to another etcd. A record that was moved, or was written by a big transaction, says in its header what its
revision is; others have it from etcd.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import msgspec

from portlayer.interfaces.store import Record
from portlayer.model.errors import InvalidArgument, Unavailable
from portlayer.stores.keys import bounds, require_text

VERSION = 1
TOKEN_BYTES = 8
LEASED, MOVED = 1, 2
_HEAD = struct.Struct(f">BI{TOKEN_BYTES}s")
_LEASE = struct.Struct(">dd")
_ORIGIN = struct.Struct(">qq")


class Meta(msgspec.Struct, frozen=True):
    """version: of this layout. revision: of the store, at the revision of etcd that wrote this. loading: a copy into
    this store is under way, or was broken off."""

    version: int
    revision: int
    loading: bool = False


class Header(NamedTuple):
    """What stands before a value. position: the op's place in the transaction; token: names that transaction.

    ttl, early: of a lease, seconds; it ends *early* before the lease of etcd that it is attached to, as that is shared.
    origin: revision and created, where they are not etcd's.
    """

    position: int
    token: bytes
    ttl: float | None = None
    early: float = 0.0
    origin: tuple[int, int] | None = None

    def encode(self) -> bytes:
        flags = (LEASED if self.ttl is not None else 0) | (MOVED if self.origin else 0)
        parts = [_HEAD.pack(flags, self.position, self.token)]
        if self.ttl is not None:
            parts.append(_LEASE.pack(self.ttl, self.early))
        if self.origin:
            parts.append(_ORIGIN.pack(*self.origin))
        return b"".join(parts)


class Stored(NamedTuple):
    """A record as it stands in etcd. written: etcd's own revision of it; lease: etcd's id of one, or 0."""

    record: Record
    header: Header
    written: int
    lease: int


class Layout:
    """Keys and revisions under *prefix*. meta_written: etcd's revision of *meta*."""

    def __init__(self, prefix: str, meta: Meta, meta_written: int) -> None:
        self.meta = meta
        self._offset = meta.revision - meta_written
        space = names(prefix)
        self.start, self.end = space.records, _after(space.records)
        self.all = space
        self._cut = len(self.start)

    def key(self, key: str) -> bytes:
        return self.start + require_text(key).encode()

    def span(self, prefix: str, after: str = "") -> tuple[bytes, bytes]:
        """The range of the keys with *prefix* beyond *after*, its end excluded; etcd wants start < end."""
        lower, upper = bounds(prefix, after)
        return self.start + lower.encode(), self.end if upper is None else self.start + upper.encode()

    def revision(self, of_etcd: int) -> int:
        return of_etcd + self._offset

    def of_etcd(self, revision: int) -> int:
        """etcd's revision at *revision*; nothing that etcd has where it is from before the store was moved here."""
        return revision - self._offset if revision > self.meta.revision else -1

    def holds(self, key: bytes) -> bool:
        """Whether *key* is a record's."""
        return key.startswith(self.start)

    def name(self, key: bytes) -> str:
        """The record's key."""
        return key[self._cut :].decode()

    def decode(self, kv: Any) -> Stored:
        header, value = decode(kv.value)
        written, made = self.revision(kv.mod_revision), self.revision(kv.create_revision)
        if header.origin:
            written, made = header.origin
        record = Record(self.name(kv.key), value, written, made)
        return Stored(record, header, kv.mod_revision, kv.lease)


class Names(NamedTuple):
    """The keys of a store's own; `start` to `end` is all that it has."""

    start: bytes
    end: bytes
    meta: bytes
    opened: bytes
    big: bytes
    step: bytes
    chunks: bytes
    records: bytes


def names(prefix: str) -> Names:
    """The keys under *prefix*, one word, so that no two prefixes are within one another."""
    if not prefix or not prefix.isascii() or not prefix.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InvalidArgument(f"The prefix {prefix!r} is not one word of letters, digits, '.', '-' and '_'.")
    start = f"{prefix}/".encode()
    own = {name: start + b"m/" + name.encode() for name in ("meta", "opened", "big", "step")}
    return Names(start, _after(start), **own, chunks=start + b"m/chunks/", records=start + b"r")


def decode(data: bytes) -> tuple[Header, bytes]:
    """The header and the value."""
    flags, position, token = _HEAD.unpack_from(data)
    at = _HEAD.size
    ttl, early, origin = None, 0.0, None
    if flags & LEASED:
        ttl, early = _LEASE.unpack_from(data, at)
        at += _LEASE.size
    if flags & MOVED:
        origin = _ORIGIN.unpack_from(data, at)
        at += _ORIGIN.size
    return Header(position, token, ttl, early, origin), data[at:]


def read_meta(data: bytes, where: str) -> Meta:
    """What the store says of itself.

    Raises:
        Unavailable: it is of a newer portlayer, or half a copy.
    """
    meta = msgspec.json.decode(data, type=Meta)
    if meta.version > VERSION:
        raise Unavailable(
            f"The store {where} has layout version {meta.version}, and this portlayer knows versions up to {VERSION}; "
            "run the portlayer that wrote it or a newer one, or restore a backup from before its upgrade."
        )
    if meta.loading:
        raise Unavailable(f"A copy into the store {where} was not finished; run it again.")
    return meta


def _after(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])
