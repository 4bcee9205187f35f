"""Transactions and expiry on etcd.

A transaction is one of etcd's where it fits: all checks, and that no big one is under way, against all ops; where it
is refused, the same answer says what the checks met. What does not fit is staged (see etcd_staging).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.model.errors import InvalidArgument, Unavailable
from portlayer.stores import etcd_messages as m
from portlayer.stores.clock import Clock
from portlayer.stores.etcd_client import Client, LeaseGone, LostAnswer
from portlayer.stores.etcd_layout import TOKEN_BYTES, Header, Layout
from portlayer.stores.etcd_leases import Deadlines, SharedLeases
from portlayer.stores.etcd_staging import MAX_BYTES, MAX_OPS, StagedOp, Staging

NEVER = -1
"""A revision that no key was written at."""
TRIES = 50


class Met(NamedTuple):
    """What a check met. failed: it does not hold; written: etcd's revision of its key, to demand instead."""

    failed: bool
    written: int | None = None


class Applier:
    """Applies transactions of this process, and ends the leases that it gave."""

    def __init__(self, client: Client, layout: Layout, staging: Staging, leases: SharedLeases, clock: Clock) -> None:
        self._client = client
        self._layout = layout
        self._staging = staging
        self._leases = leases
        self._clock = clock
        self._deadlines = Deadlines(clock)
        self._expiring = asyncio.Lock()
        self._process = os.urandom(TOKEN_BYTES - 4)
        self._numbers = itertools.count(1)

    async def apply(self, transaction: Transaction) -> int:
        """Run *transaction*; etcd's revision at which it happened.

        Raises:
            CheckFailed, InvalidArgument, Unavailable: as the store's.
        """
        token = self._process + (next(self._numbers) & 0xFFFFFFFF).to_bytes(4, "big")
        for op in transaction.ops:
            if isinstance(op, Put) and len(op.value) + len(op.key) > MAX_BYTES:
                raise InvalidArgument(f"The record {op.key[:80]!r} is too large: {MAX_BYTES} bytes are the most.")
        if not _fits(transaction):
            return await self._big(transaction, token)
        written = await self._plain(transaction, token)
        now = self._clock()[1]
        for op in transaction.ops:
            if isinstance(op, Put):
                self._deadlines.put(self._layout.key(op.key), written, op.ttl_seconds, now)
            else:
                self._deadlines.delete(self._layout.key(op.key), written)
        return written

    async def _plain(self, transaction: Transaction, token: bytes) -> int:
        big = self._layout.all.big
        written: dict[str, int] = {}
        for _ in range(TRIES):
            request = m.Txn(
                compare=[m.written_at(big, 0), *self._compares(transaction.checks, written)],
                success=await self._requests(transaction, token),
                failure=[m.read(big), *(self._look(check) for check in transaction.checks)],
            )
            try:
                answer = await self._client.call("txn", request, repeat=False)
            except LeaseGone:
                self._leases.forget()
                continue
            except LostAnswer as lost:
                return await self._find(transaction, token, lost)
            if answer.succeeded:
                return int(answer.header.revision)
            found, *rest = (one.response_range for one in answer.responses)
            if found.kvs:
                await self._staging.settle(found.kvs[0])
                continue
            met = [self._meet(check, one.kvs) for check, one in zip(transaction.checks, rest, strict=True)]
            self._refuse(transaction.checks, met)
            # They hold: what was moved here has another revision in etcd than it says.
            written = {
                check.key: one.written
                for check, one in zip(transaction.checks, met, strict=True)
                if isinstance(check, Check) and one.written is not None
            }
        raise Unavailable("The store is too busy with large transactions.", retry_after_seconds=1)

    def _compares(self, checks: Sequence[Check | Empty], written: dict[str, int]) -> list[Any]:
        found = []
        for check in checks:
            if isinstance(check, Empty):
                start, end = self._layout.span(check.prefix)
                besides = self._layout.key(check.besides) if check.besides else b""
                apart = start <= besides < end
                spans = [(start, besides), (besides + b"\0", end)] if apart else [(start, end)]
                found += [m.written_at(first, 0, end=last) for first, last in spans if first < last]
            elif check.revision is None:
                found.append(m.present(self._layout.key(check.key)))
            else:
                at = written.get(check.key, self._layout.of_etcd(check.revision) if check.revision else 0)
                found.append(m.written_at(self._layout.key(check.key), at))
        return found

    def _look(self, check: Check | Empty) -> Any:
        """The read that shows what *check* meets."""
        if isinstance(check, Empty):
            start, end = self._layout.span(check.prefix)
            return m.read(start, range_end=end, limit=2, keys_only=True)
        return m.read(self._layout.key(check.key))

    def _meet(self, check: Check | Empty, kvs: Sequence[Any]) -> Met:
        if isinstance(check, Empty):
            return Met(any(self._layout.name(kv.key) != check.besides for kv in kvs))
        stored = self._layout.decode(kvs[0]) if kvs else None
        if check.revision is None:
            return Met(stored is None)
        if (stored.record.revision if stored else 0) != check.revision:
            return Met(failed=True)
        return Met(failed=False, written=stored.written if stored else None)

    @staticmethod
    def _refuse(checks: Sequence[Check | Empty], met: Sequence[Met]) -> None:
        if failed := [check for check, one in zip(checks, met, strict=True) if one.failed]:
            raise CheckFailed(failed)

    async def _requests(self, transaction: Transaction, token: bytes) -> list[Any]:
        found = [await self._request(index, op, token) for index, op in enumerate(transaction.ops)]
        if not any(isinstance(op, Put) for op in transaction.ops):
            # Something must be written, for a revision of its own, and to tell where the answer is lost.
            found.append(m.write(self._layout.all.opened, token))
        return found

    async def _request(self, position: int, op: Put | Delete, token: bytes) -> Any:
        key = self._layout.key(op.key)
        if isinstance(op, Delete):
            return m.erase(key)
        lease, early = await self._leases.get(op.ttl_seconds) if op.ttl_seconds is not None else (0, 0.0)
        header = Header(position, token, op.ttl_seconds, early)
        return m.write(key, header.encode() + op.value, lease)

    async def _find(self, transaction: Transaction, token: bytes, lost: LostAnswer) -> int:
        """Whether *transaction*, whose answer was lost, happened: what it put carries its token."""
        key = next((op.key for op in transaction.ops if isinstance(op, Put)), None)
        look = m.Range(key=self._layout.all.opened if key is None else self._layout.key(key))
        for kv in (await self._client.call("range", look)).kvs:
            if (kv.value if key is None else self._layout.decode(kv).header.token) == token:
                return int(kv.mod_revision)
        raise Unavailable(f"etcd's answer was lost ({lost}); see whether it happened.", retry_after_seconds=1) from None

    async def _big(self, transaction: Transaction, token: bytes) -> int:
        while True:
            locked = await self._staging.lock(token)
            try:
                met = []
                for check in transaction.checks:
                    answer = await self._client.call("txn", m.Txn(success=[self._look(check)]))
                    met.append(self._meet(check, answer.responses[0].response_range.kvs))
                self._refuse(transaction.checks, met)
                owned = await self._staging.own(token, await self._staged(transaction.ops), locked)
            except BaseException:
                await self._staging.unlock(locked)
                raise
            if owned is not None:
                await self.settle()
                return owned

    async def _staged(self, ops: Sequence[Put | Delete]) -> list[StagedOp]:
        created: dict[str, int] = {}
        for start in range(0, len(ops), MAX_OPS):
            looks = [m.read(self._layout.key(op.key)) for op in ops[start : start + MAX_OPS]]
            for one in (await self._client.call("txn", m.Txn(success=looks))).responses:
                for kv in one.response_range.kvs:
                    record = self._layout.decode(kv).record
                    created[record.key] = record.created
        staged = []
        for op in ops:
            if isinstance(op, Put):
                ttl = op.ttl_seconds
                lease, early = await self._leases.get(ttl) if ttl is not None else (0, 0.0)
                staged.append(StagedOp(op.key, op.value, created.get(op.key, 0), lease, ttl, early))
            else:
                staged.append(StagedOp(op.key, None, created.get(op.key, 0)))
        return staged

    async def settle(self) -> None:
        """Finish the big transaction that is under way, if there is one."""
        for kv in (await self._client.call("range", m.Range(key=self._layout.all.big))).kvs:
            await self._staging.settle(kv)

    @property
    def expiring(self) -> bool:
        return self._expiring.locked()

    @property
    def any_due(self) -> bool:
        return self._deadlines.any_due

    async def expire(self) -> None:
        """Delete the records of this process whose time is over.

        Raises:
            Unavailable: they could not be deleted just now.
        """
        async with self._expiring:
            while due := self._deadlines.due(MAX_OPS):
                try:
                    await self._delete(due)
                except BaseException:
                    self._deadlines.again(due)
                    raise

    async def _delete(self, due: dict[bytes, int]) -> None:
        big = self._layout.all.big
        while due:
            keys = sorted(due)
            request = m.Txn(
                compare=[m.written_at(big, 0), *(m.written_at(key, due[key]) for key in keys)],
                success=[m.erase(key) for key in keys],
                failure=[m.read(big), *(m.read(key, keys_only=True) for key in keys)],
            )
            answer = await self._client.call("txn", request)
            if answer.succeeded:
                return
            found, *rest = (one.response_range.kvs for one in answer.responses)
            if found:
                await self._staging.settle(found[0])
            due = {kv.key: kv.mod_revision for kvs in rest for kv in kvs if due[kv.key] == kv.mod_revision}


def _fits(transaction: Transaction) -> bool:
    """Whether it is within what etcd takes at once."""
    size = sum(2 * len(check.key if isinstance(check, Check) else check.prefix) + 64 for check in transaction.checks)
    for op in transaction.ops:
        size += len(op.key) + 64 + (len(op.value) if isinstance(op, Put) else 0)
    return size <= MAX_BYTES and 2 * len(transaction.checks) <= MAX_OPS and len(transaction.ops) <= MAX_OPS
