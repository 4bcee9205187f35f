"""All of an etcd store out, and in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from portlayer.model.errors import InUse, Unavailable
from portlayer.stores import etcd_messages as m
from portlayer.stores.clock import boot_clock
from portlayer.stores.etcd_client import Access, Client, HistoryGone
from portlayer.stores.etcd_layout import VERSION, Header, Layout, Meta, names, read_meta
from portlayer.stores.etcd_leases import SharedLeases
from portlayer.stores.etcd_staging import CHUNK_BYTES, MAX_BYTES, MAX_OPS, Staging
from portlayer.stores.snapshot import Row, Snapshot

PAGE = 2000
AT_ONCE = 8
NO_TOKEN = bytes(8)
TRIES = 5


async def dump(access: Access, prefix: str) -> Snapshot:
    """What the store under *prefix* holds; processes that use it may go on.

    Raises:
        Unavailable: there is none, or etcd cannot be reached.
    """
    client = Client(access)
    try:
        await client.authenticate()
        layout = await _find(client, access, prefix)
        for _ in range(TRIES):
            try:
                return await _dump(client, layout)
            except HistoryGone:
                continue  # it was compacted beneath us
        raise Unavailable("etcd compacts its history faster than it can be read.", retry_after_seconds=1)
    finally:
        await client.close()


async def _dump(client: Client, layout: Layout) -> Snapshot:
    staging = Staging(client, layout)
    while True:
        first = await client.call("range", m.Range(key=layout.all.big))
        if not first.kvs or not staging.owned(first.kvs[0]):
            break
        await staging.settle(first.kvs[0])
    at = first.header.revision
    rows: list[Row] = []
    left: dict[int, float] = {0: 0.0}
    start = layout.start
    while True:
        request = m.Range(key=start, range_end=layout.end, revision=at, limit=PAGE)
        kvs = (await client.call("range", request)).kvs
        for kv in kvs:
            stored = layout.decode(kv)
            if kv.lease not in left:
                left[kv.lease] = await _left(client, kv.lease)
            ttl, remaining = stored.header.ttl, left[kv.lease] - stored.header.early
            if ttl is None or remaining > 0:
                one = stored.record
                position = stored.header.position
                rows.append(Row(one.key, one.value, one.revision, one.created, position, ttl, max(0.0, remaining)))
        if len(kvs) < PAGE:
            return Snapshot(layout.revision(at), rows)
        start = kvs[-1].key + b"\0"


async def _left(client: Client, lease: int) -> float:
    """Seconds that *lease* lasts; whole ones, rounded down by etcd, so one is added: no lease may end early."""
    answer = await client.call("time_to_live", m.CLASSES["LeaseTimeToLiveRequest"](ID=lease))
    return float(answer.TTL) + 1.0 if answer.TTL >= 0 else 0.0


async def revision(access: Access, prefix: str) -> int:
    """The last revision of the store under *prefix*; 0 where there is none."""
    client = Client(access)
    try:
        await client.authenticate()
        answer = await client.call("range", m.Range(key=names(prefix).meta))
        if not answer.kvs:
            return 0
        meta = msgspec.json.decode(answer.kvs[0].value, type=Meta)
        return Layout(prefix, meta, answer.kvs[0].mod_revision).revision(answer.header.revision)
    finally:
        await client.close()


async def load(access: Access, prefix: str, snapshot: Snapshot, *, replace: bool = False) -> None:
    """Make a store under *prefix* that holds *snapshot*; until it does, it cannot be opened. Nobody may have it open.

    Raises:
        InUse: there is one, and not *replace*. Unavailable: etcd cannot be reached, or a record is too large for it.
    """
    space = names(prefix)
    client = Client(access)
    try:
        await client.authenticate()
        found = (await client.call("range", m.Range(key=space.start, range_end=space.end, limit=1))).kvs
        meta = (await client.call("range", m.Range(key=space.meta))).kvs
        broken_off = bool(meta) and msgspec.json.decode(meta[0].value, type=Meta).loading
        if found and not broken_off and not replace:
            raise InUse(f"There is something under {prefix} in etcd already.", kind="store", id=prefix)
        # Two requests: one transaction may not delete a range and put into it.
        erase = m.Op(request_delete_range=m.DeleteRange(key=space.start, range_end=space.end))
        await client.call("txn", m.Txn(success=[erase]))
        loading = msgspec.json.encode(Meta(VERSION, snapshot.revision, loading=True))
        await client.call("txn", m.Txn(success=[m.write(space.meta, loading)]))
        await _fill(client, Layout(prefix, Meta(VERSION, 0), 0), snapshot.rows)
        whole = msgspec.json.encode(Meta(VERSION, snapshot.revision))
        await client.call("txn", m.Txn(success=[m.write(space.meta, whole)]))
    finally:
        await client.close()


async def _fill(client: Client, layout: Layout, rows: Sequence[Row]) -> None:
    leases = SharedLeases(client, boot_clock)
    turns = asyncio.Semaphore(AT_ONCE)

    async def put(batch: Sequence[Row]) -> None:
        async with turns:
            puts: list[Any] = []
            for row in batch:
                lease, early = await leases.get(row.left) if row.ttl is not None else (0, 0.0)
                header = Header(row.position, NO_TOKEN, row.ttl, early, (row.revision, row.created))
                puts.append(m.write(layout.key(row.key), header.encode() + row.value, lease))
            await client.call("txn", m.Txn(success=puts))

    async with asyncio.TaskGroup() as tasks:
        for batch in _batches(rows):
            tasks.create_task(put(batch))


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        weight = len(row.value) + len(row.key) + 128
        if weight > MAX_BYTES:
            raise Unavailable(f"The record {row.key[:80]} has {len(row.value)} bytes: too large for etcd.")
        if batch and (len(batch) == MAX_OPS or size + weight > CHUNK_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += weight
    if batch:
        yield batch


async def _find(client: Client, access: Access, prefix: str) -> Layout:
    where = f"{prefix} in etcd at {', '.join(access.endpoints)}"
    found = (await client.call("range", m.Range(key=names(prefix).meta))).kvs
    if not found:
        raise Unavailable(f"There is no store {where}.")
    return Layout(prefix, read_meta(found[0].value, where), found[0].mod_revision)
