"""Transactions beyond etcd's limits, seen whole or not at all.

    lock      `big` is put, for a few seconds: nobody else writes. The checks are made by reading
    own       one put of `big` says all that shall be: from here on it has happened, at this revision
    unpack    in steps, each on condition that `big` is as it was: the records, and at last `big` goes

What does not fit into one value goes before, in chunks, which belong to nobody until they are owned. All others read
`big` with whatever they read, and demand with all they write that it is absent. Who meets one that is owned unpacks it
too (any of its steps may be done twice); who meets a lock waits. So a process that dies after `own` leaves nothing half
done, and one that dies before leaves a lock and chunks that vanish by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from portlayer.interfaces.store import Changed, Record
from portlayer.model.errors import Unavailable
from portlayer.stores import etcd_messages as m
from portlayer.stores.etcd_client import Client, HistoryGone, LeaseGone
from portlayer.stores.etcd_layout import Header, Layout

MAX_OPS = 120
"""A transaction of etcd has 128 at the most; some are ours."""
MAX_BYTES = 1_350_000
"""A request to etcd has 1.5 MiB at the most."""
CHUNK_BYTES = 1 << 20
LOCK_SECONDS = 15
WAIT_SECONDS = 20.0
POLL_SECONDS = 0.02
MAX_CHUNKS = 100


class StagedOp(msgspec.Struct, frozen=True, array_like=True):
    """A put, or where value is None a deletion. created: 0 where the key was absent.

    lease, ttl, early: as in the record's header.
    """

    key: str
    value: bytes | None
    created: int = 0
    lease: int = 0
    ttl: float | None = None
    early: float = 0.0

    def origin(self, revision: int) -> tuple[int, int]:
        """Revision and created of the record, where the transaction happened at *revision*."""
        return revision, self.created or revision


class Big(msgspec.Struct, frozen=True, array_like=True):
    """The value of `big`. ops: packed, once it is owned; chunks: how many keys hold them instead."""

    token: bytes
    owned: bool = False
    ops: bytes = b""
    chunks: int = 0


_encode = msgspec.msgpack.Encoder().encode
_big = msgspec.msgpack.Decoder(Big)
_ops = msgspec.msgpack.Decoder(list[StagedOp])


class Staging:
    """Big transactions of one store, anybody's."""

    def __init__(self, client: Client, layout: Layout) -> None:
        self._client = client
        self._layout = layout

    async def lock(self, token: bytes) -> int:
        """Keep all others from writing, for LOCK_SECONDS; etcd's revision of the lock."""
        lease = await self._lease()
        value = _encode(Big(token))
        while True:
            request = m.Txn(
                compare=[m.written_at(self._layout.all.big, 0)],
                success=[m.write(self._layout.all.big, value, lease)],
                failure=[m.read(self._layout.all.big)],
            )
            answer = await self._client.call("txn", request)
            if answer.succeeded:
                return int(answer.header.revision)
            found = answer.responses[0].response_range.kvs[0]
            if found.value == value:
                return int(found.mod_revision)  # ours: an answer was lost
            await self.settle(found)

    async def unlock(self, locked: int) -> None:
        """Let others write again; nothing has happened."""
        big = self._layout.all.big
        request = m.Txn(compare=[m.written_at(big, locked)], success=[m.erase(big)])
        await self._client.call("txn", request)

    async def own(self, token: bytes, ops: Sequence[StagedOp], locked: int) -> int | None:
        """Make *ops* happen; etcd's revision at which they did. None: the lock has run out."""
        big = self._layout.all.big
        packed = _encode(ops)
        names: list[bytes] = []
        if len(packed) > CHUNK_BYTES:
            names = await self._put_chunks(token, packed)
        value = Big(token, owned=True, chunks=len(names), ops=b"" if names else packed)
        keep = [m.Op(request_put=m.Put(key=name, ignore_value=True)) for name in names]
        request = m.Txn(
            compare=[m.written_at(big, locked), *(m.present(name) for name in names)],
            success=[m.write(big, _encode(value)), *keep],
            failure=[m.read(big)],
        )
        answer = await self._client.call("txn", request)
        if answer.succeeded:
            return int(answer.header.revision)
        found = answer.responses[0].response_range.kvs
        if found and _big.decode(found[0].value) == value:
            return int(found[0].mod_revision)  # ours: an answer was lost
        return await self._landed(token, ops)

    async def _landed(self, token: bytes, ops: Sequence[StagedOp]) -> int | None:
        """Where an answer was lost, and others have unpacked it since: the records tell."""
        key = next((op.key for op in ops if op.value is not None), None)
        if key is not None:
            answer = await self._client.call("range", m.Range(key=self._layout.key(key)))
            for kv in answer.kvs:
                header = self._layout.decode(kv).header
                if header.token == token and header.origin:
                    return self._layout.of_etcd(header.origin[0])
        return None

    async def _put_chunks(self, token: bytes, packed: bytes) -> list[bytes]:
        parts = [packed[start : start + CHUNK_BYTES] for start in range(0, len(packed), CHUNK_BYTES)]
        if len(parts) > MAX_CHUNKS:
            raise Unavailable(f"A transaction of {len(packed)} bytes is too much for the store; make it smaller.")
        lease = await self._lease()
        names = [self._chunk(token, number) for number in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            await self._client.call("txn", m.Txn(success=[m.write(name, part, lease)]))
        return names

    @staticmethod
    def owned(found: Any) -> bool:
        """Whether the big transaction *found* has happened."""
        return _big.decode(found.value).owned

    async def settle(self, found: Any) -> None:
        """Unpack the big transaction *found*, or wait until a lock is gone.

        Raises:
            Unavailable: another process keeps the store locked.
        """
        until = asyncio.get_running_loop().time() + WAIT_SECONDS
        while found is not None:
            big = _big.decode(found.value)
            if big.owned:
                await self._unpack(big, found.mod_revision)
                return
            if asyncio.get_running_loop().time() > until:
                raise Unavailable("Another process has the store locked for long.", retry_after_seconds=1)
            await asyncio.sleep(POLL_SECONDS)
            found = next(iter((await self._client.call("range", m.Range(key=self._layout.all.big))).kvs), None)

    async def changes(self, kv: Any) -> list[Changed]:
        """What the big transaction in *kv* did, as a watcher sees it; nothing where it is a lock.

        Raises:
            HistoryGone: its parts have been compacted.
        """
        big = _big.decode(kv.value)
        if not big.owned:
            return []
        ops = await self._read(big, kv.mod_revision)
        if ops is None:
            raise HistoryGone
        revision = self._layout.revision(kv.mod_revision)
        found = []
        for index, op in enumerate(ops):
            if op.value is not None:
                found.append(Changed(revision, index, op.key, Record(op.key, op.value, *op.origin(revision))))
            elif op.created:
                found.append(Changed(revision, index, op.key, None))
        return found

    async def _read(self, big: Big, revision: int) -> list[StagedOp] | None:
        """Its ops; None where its chunks are gone, as it has been unpacked."""
        packed = big.ops
        if big.chunks:
            parts = []
            for number in range(big.chunks):
                request = m.Range(key=self._chunk(big.token, number), revision=revision)
                try:
                    parts += [kv.value for kv in (await self._client.call("range", request)).kvs]
                except HistoryGone:
                    return None
            packed = b"".join(parts)
        return _ops.decode(packed)

    async def _unpack(self, big: Big, owned: int) -> None:
        ops = await self._read(big, owned)
        if ops is None:
            return
        revision = self._layout.revision(owned)
        gone: set[int] = set()
        steps: list[Any] = []
        size = 0
        for position, op in enumerate(ops):
            if size and (len(steps) >= MAX_OPS or size + len(op.value or b"") > CHUNK_BYTES):
                if not await self._step(owned, steps, gone):
                    return
                steps, size = [], 0
            steps.append((position, op, Header(position, big.token, op.ttl, op.early, op.origin(revision))))
            size += len(op.value or b"") + len(op.key) + 64
        if steps and not await self._step(owned, steps, gone):
            return
        last = [m.erase(self._layout.all.big), *(m.erase(self._chunk(big.token, n)) for n in range(big.chunks))]
        await self._txn(owned, last)

    async def _step(self, owned: int, steps: Sequence[tuple[int, StagedOp, Header]], gone: set[int]) -> bool:
        """Do some of the ops; False where others have finished it all."""
        while True:
            requests = []
            for _, op, header in steps:
                key = self._layout.key(op.key)
                if op.value is None or op.lease in gone:
                    requests.append(m.erase(key))
                else:
                    requests.append(m.write(key, header.encode() + op.value, op.lease))
            try:
                return await self._txn(owned, requests)
            except LeaseGone:
                # Its time was over before it was unpacked.
                for lease in {op.lease for _, op, _ in steps if op.lease} - gone:
                    left = await self._client.call("time_to_live", m.CLASSES["LeaseTimeToLiveRequest"](ID=lease))
                    if left.TTL < 0:
                        gone.add(lease)

    async def _txn(self, owned: int, requests: list[Any]) -> bool:
        space = self._layout.all
        request = m.Txn(compare=[m.written_at(space.big, owned)], success=[*requests, m.write(space.step, b"")])
        return bool((await self._client.call("txn", request)).succeeded)

    async def _lease(self) -> int:
        return int((await self._client.call("grant", m.CLASSES["LeaseGrantRequest"](TTL=LOCK_SECONDS))).ID)

    def _chunk(self, token: bytes, number: int) -> bytes:
        return self._layout.all.chunks + f"{token.hex()}/{number:04}".encode()
