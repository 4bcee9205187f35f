"""A dict that does what a store does, and random steps to take with both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

from portlayer.interfaces.store import Changed, Check, CheckFailed, Delete, Empty, Put, Record, Store, Transaction


class Expect(NamedTuple):
    """A check in words: `now` is the revision that the key has in the model, 0 if it is absent."""

    key: str
    revision: str


class Attempt(NamedTuple):
    checks: list[Expect | Empty]
    ops: list[Put | Delete]


class Wait(NamedTuple):
    seconds: float


keys = st.sampled_from(["a", "a/", "a/b", "a0", "ä", "a%", "b"])
checks = st.one_of(
    st.builds(Expect, keys, st.sampled_from(["now", "now", "now", "absent", "there", "other"])),
    st.builds(Empty, st.sampled_from(["a/", "b", "c"])),
)
ops = st.one_of(
    st.builds(Put, keys, st.binary(max_size=4), st.sampled_from([None, None, 10.0, 20.0])),
    st.builds(Delete, keys),
)
steps: st.SearchStrategy[Attempt | Wait] = st.one_of(
    st.builds(Attempt, st.lists(checks, max_size=2), st.lists(ops, max_size=4, unique_by=lambda op: op.key)),
    st.builds(Wait, st.sampled_from([5.0, 10.0])),
)


class Row(NamedTuple):
    record: Record
    place: tuple[int, int]
    deadline: float | None


@dataclass
class Model:
    """Takes each step on *store*, within *prefix*, and on a dict; what they answer must agree."""

    store: Store
    clock: Any
    prefix: str
    rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watch = self.store.watch(self.prefix)

    async def take(self, step: Attempt | Wait) -> None:
        if isinstance(step, Wait):
            self.clock.advance(step.seconds)
            now = self.clock()[1]
            self.rows = {key: row for key, row in self.rows.items() if row.deadline is None or row.deadline > now}
        else:
            await self.attempt(step)

    async def attempt(self, step: Attempt) -> None:
        before = await self.store.revision()
        demands = [self.demand(check) for check in step.checks]
        failed = tuple(demand for demand, holds in demands if not holds())
        transaction = Transaction(
            [demand for demand, _ in demands], [self.inside(op) for op in step.ops], durable=False
        )
        if failed:
            with pytest.raises(CheckFailed) as refused:
                await self.store.apply(transaction)
            assert refused.value.failed == failed
        else:
            revision = await self.store.apply(transaction)
            assert revision > before
            self.land(transaction, revision)

    def demand(self, check: Expect | Empty) -> tuple[Check | Empty, Callable[[], bool]]:
        if isinstance(check, Empty):
            prefix = self.prefix + check.prefix
            return Empty(prefix), lambda: not any(key.startswith(prefix) for key in self.rows)
        key = self.prefix + check.key
        row = self.rows.get(key)
        now = row.record.revision if row else 0
        wanted = {"now": now, "absent": 0, "there": None, "other": now + 1}[check.revision]
        return Check(key, wanted), lambda: row is not None if wanted is None else wanted == now

    def inside(self, op: Put | Delete) -> Put | Delete:
        key = self.prefix + op.key
        return Put(key, op.value, op.ttl_seconds) if isinstance(op, Put) else Delete(key)

    def land(self, transaction: Transaction, revision: int) -> None:
        for index, op in enumerate(transaction.ops):
            old = self.rows.pop(op.key, None)
            if isinstance(op, Put):
                record = Record(op.key, op.value, revision, old.record.created if old else revision)
                deadline = None if op.ttl_seconds is None else self.clock()[1] + op.ttl_seconds
                self.rows[op.key] = Row(record, (revision, index), deadline)

    async def compare(self) -> None:
        by_key = [row.record for _, row in sorted(self.rows.items())]
        by_place = [row.record for row in sorted(self.rows.values(), key=lambda row: row.place)]
        assert await self.store.range(self.prefix) == by_key
        assert await self.store.count(self.prefix) == len(by_key)
        assert await self.store.get_many([record.key for record in by_key]) == by_key
        assert await self.store.since(self.prefix, 0) == by_place
        assert await self.store.range(self.prefix, after=self.prefix + "a/") == [
            record for record in by_key if record.key > self.prefix + "a/"
        ]
        assert await self.watched() == {record.key: record for record in by_key}

    async def watched(self) -> dict[str, Record]:
        """The state as a watcher from the start knows it, once it has seen a last change."""
        end = self.prefix + "~end"
        await self.store.apply(Transaction(ops=[Put(end, b"")], durable=False))
        state: dict[str, Record] = {}
        last = (0, -1)
        async with asyncio.timeout(30):
            async for change in self.watch:
                assert (change.revision, change.index) > last
                last = change.revision, change.index
                if change.key == end:
                    return state
                _fold(state, change)
        raise AssertionError("the watch ended")


def _fold(state: dict[str, Record], change: Changed) -> None:
    if change.record is None:
        del state[change.key]
    else:
        state[change.key] = change.record
