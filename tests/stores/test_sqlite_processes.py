"""Several stores on one file, in this process and in others, one of which is killed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conformance.store_tools import FakeClock, changes_until, delete, next_changes, places_of, put

from portlayer.interfaces.store import Check, CheckFailed, Delete, Put, Transaction
from portlayer.stores.sqlite import SqliteStore

PRELUDE = """
import asyncio, contextlib, sys
from pathlib import Path
from portlayer.interfaces.store import Check, CheckFailed, Delete, Put, Transaction
from portlayer.stores.sqlite import SqliteStore
"""

INCREMENT = """
async def increment(store, times):
    for _ in range(times):
        landed = False
        while not landed:
            record = await store.get("n")
            value, revision = (int(record.value), record.revision) if record else (0, 0)
            with contextlib.suppress(CheckFailed):
                op = Put("n", b"%d" % (value + 1))
                await store.apply(Transaction(checks=[Check("n", revision)], ops=[op], durable=False))
                landed = True

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]))
    await asyncio.gather(*(increment(store, 25) for _ in range(4)))
    await store.close()

asyncio.run(main())
"""

WRITE_FOREVER = """
async def main():
    store = await SqliteStore.open(Path(sys.argv[1]))
    for number in range(1_000_000):
        pair = [Put(f"a/{number:06}", b"x" * 3000), Put(f"b/{number:06}", b"")]
        await store.apply(Transaction(ops=pair, durable=number % 2 == 0))
        print(number, flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def python(program: str, path: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PRELUDE + program, str(path), stdout=PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def pair(path: Path):
    clock = FakeClock()
    stores = [await SqliteStore.open(path, clock=clock) for _ in range(2)]
    yield stores
    for store in stores:
        await store.close()


async def test_both_see_what_either_wrote_at_once(pair: list[SqliteStore]) -> None:
    one, other = pair
    for number in range(50):
        revision = await put(one, f"k/{number}")
        assert await other.revision() == revision
        record = await other.get(f"k/{number}")
        assert record is not None
        assert await put(other, f"k/{number}") == record.revision + 1


async def test_both_writing_at_once_share_the_revisions(pair: list[SqliteStore]) -> None:
    revisions = await asyncio.gather(*(put(pair[number % 2], f"k/{number}") for number in range(100)))
    assert sorted(revisions) == list(range(1, 101))
    for store in pair:
        assert {record.key: record.revision for record in await store.range("k/")} == {
            f"k/{number}": revision for number, revision in enumerate(revisions)
        }


async def test_a_check_sees_the_others_write(pair: list[SqliteStore]) -> None:
    one, other = pair
    revision = await put(one, "k")
    await put(other, "k")
    with pytest.raises(CheckFailed):
        await one.apply(Transaction(checks=[Check("k", revision)], ops=[Put("k", b"")]))


async def test_a_watch_sees_the_others_changes_in_order(pair: list[SqliteStore]) -> None:
    one, other = pair
    await put(one, "gone")
    watch = one.watch("")
    waiting = asyncio.ensure_future(next_changes(watch, 3))
    first = await other.apply(Transaction(ops=[Put("z", b""), Delete("gone"), Put("a", b"")], durable=False))
    assert places_of(await waiting) == [(first, 0, "z", True), (first, 1, "gone", False), (first, 2, "a", True)]
    second = await put(one, "own")
    third = await put(other, "b")
    fourth = await put(one, "own")
    seen = places_of(await changes_until(watch, (fourth, 0)))
    assert seen[-2:] == [(third, 0, "b", True), (fourth, 0, "own", True)]
    assert seen[:-2] in ([], [(second, 0, "own", True)])


async def test_a_watch_is_told_of_the_others_change_soon(pair: list[SqliteStore]) -> None:
    one, other = pair
    loop = asyncio.get_running_loop()
    watch = one.watch("k/")

    async def usual() -> float:
        """Seconds from the other's write, more often than not."""
        late = []
        for number in range(10):
            waiting = asyncio.ensure_future(next_changes(watch, 1))
            await put(other, f"k/{number}")
            written = loop.time()
            await waiting
            late.append(loop.time() - written)
        return sorted(late)[5]

    async with asyncio.timeout(60):  # on a machine that is busy, once it is less so
        while await usual() >= 0.05:
            pass


async def test_a_watch_resumes_after_the_others_deletions(pair: list[SqliteStore]) -> None:
    one, other = pair
    start = await put(one, "a", "b")
    last = await delete(other, "b", "a")
    assert places_of(await next_changes(one.watch("", start), 2)) == [(last, 0, "b", False), (last, 1, "a", False)]


async def test_increments_of_three_processes_lose_nothing(path: Path) -> None:
    store = await SqliteStore.open(path)
    async with contextlib.AsyncExitStack() as stack:
        others = [await stack.enter_async_context(python(INCREMENT, path)) for _ in range(3)]
        assert [await other.wait() for other in others] == [0, 0, 0]
    record = await store.get("n")
    await store.close()
    assert record is not None
    assert record.value == b"300"
    assert record.revision == 300


async def test_what_was_answered_outlives_a_kill(path: Path) -> None:
    async with python(WRITE_FOREVER, path) as process:
        assert process.stdout is not None
        answered = [int(await process.stdout.readline()) for _ in range(300)]
        process.kill()
        rest, _ = await process.communicate()
    answered += [int(line) for line in rest.split()]
    store = await SqliteStore.open(path)
    found = [[record.key[2:] for record in await store.range(prefix)] for prefix in ("a/", "b/")]
    revision = await store.revision()
    await store.close()
    assert found[0] == found[1]
    assert len(found[0]) == revision
    assert {int(key) for key in found[0]} >= set(answered)
