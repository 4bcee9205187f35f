"""What becomes of an etcd store when etcd does not answer, dies, loses its leader, is full, or ends leases."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator
from typing import Any

import etcdlab
import grpc
import grpc.aio
import pytest
from conformance.store_tools import FakeClock, delete, keys_of, next_changes, put

from portlayer.interfaces.store import Check, CheckFailed, Compacted, Put, Transaction
from portlayer.model.errors import Unavailable
from portlayer.stores import etcd_client, etcd_room
from portlayer.stores.etcd import EtcdStore


@pytest.fixture
def alone():
    """A cluster that a test may do anything to."""
    with etcdlab.cluster() as cluster:
        yield cluster


@pytest.fixture
async def store(etcd: etcdlab.Cluster) -> AsyncIterator[EtcdStore]:
    prefix = uuid.uuid4().hex
    store = await EtcdStore.open(etcd.access, prefix)
    yield store
    await store.close()
    await etcdlab.wipe(etcd.access, prefix)


def lose(store: EtcdStore, *, sent: bool) -> None:
    """The answer to the next transaction of *store* is lost; sent: only the answer is."""
    methods = store._client._endpoints[0].methods
    real = methods["txn"]

    async def call(request: Any, **options: Any) -> Any:
        if not request.success or not any(op.HasField("request_put") for op in request.success):
            return await real(request, **options)
        methods["txn"] = real
        if sent:
            await real(request, **options)
        nothing = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details="Socket closed")

    methods["txn"] = call


async def test_a_transaction_whose_answer_is_lost_is_found_to_have_happened(store: EtcdStore) -> None:
    lose(store, sent=True)
    revision = await store.apply(Transaction((Check("a", 0),), (Put("a", b"1"), Put("b", b"1"))))
    assert [row.revision for row in await store.range("")] == [revision, revision]
    lose(store, sent=True)
    assert await delete(store, "a", "b") == await store.revision()
    assert await store.range("") == []


async def test_one_that_did_not_happen_is_unavailable_and_never_happens(store: EtcdStore) -> None:
    for ops in ((Put("a", b"1"),), ()):
        before = await store.revision()
        lose(store, sent=False)
        with pytest.raises(Unavailable, match="lost") as told:
            await store.apply(Transaction((), ops))
        assert told.value.facts["retry_after_seconds"] == 1
        assert await store.revision() == before
    assert await store.range("") == []


async def test_the_same_value_of_another_is_not_taken_for_ones_own(store: EtcdStore) -> None:
    await put(store, "lock", value=b"mine")
    lose(store, sent=False)
    with pytest.raises(Unavailable):
        await put(store, "lock", value=b"mine")


async def test_etcd_that_is_killed_and_started_again_is_found_again(alone: etcdlab.Cluster) -> None:
    store = await EtcdStore.open(alone.access, "killed")
    watch = store.watch("k/")
    landed: dict[str, int] = {}
    unknown: set[str] = set()
    stop = asyncio.Event()

    async def work(worker: int) -> None:
        number = 0
        while not stop.is_set():
            key = f"k/{worker}/{number}"
            number += 1
            try:
                landed[key] = await store.apply(Transaction((Check(key, 0),), (Put(key, b""),)))
            except Unavailable:
                unknown.add(key)

    async def enough(count: int) -> None:
        async with asyncio.timeout(60):
            target = len(landed) + count
            while len(landed) < target:
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        for worker in range(4):
            tasks.create_task(work(worker))
        for _ in range(3):
            await enough(50)
            alone.kill()
            await asyncio.to_thread(alone.start)
        await enough(50)
        stop.set()
    there = {row.key: row.revision for row in await store.range("k/")}
    assert {key: there.get(key) for key in landed} == landed
    assert there.keys() - landed.keys() <= unknown
    seen = await next_changes(watch, len(there))
    assert {change.key: change.revision for change in seen} == there
    await store.close()


async def test_a_watch_that_compaction_has_overtaken_says_so_and_the_next_goes_on(alone: etcdlab.Cluster) -> None:
    store, other = [await EtcdStore.open(alone.access, "overtaken") for _ in range(2)]
    watch, late = store.watch("k/"), store.watch("elsewhere/")
    await put(other, "k/before")
    assert keys_of(await next_changes(watch, 1)) == ["k/before"]
    real = store._client.watch

    async def broken(request: Any) -> AsyncIterator[Any]:
        raise Unavailable("the way to etcd is cut")
        yield request

    store._client.watch = broken  # type: ignore[assignment,method-assign]
    alone.kill()
    await asyncio.to_thread(alone.start)
    await put(other, "k/meanwhile")
    await delete(other, "k/before")
    last = await put(other, "k/last")
    alone.control("compact", str(last - other._layout.revision(0)))
    store._client.watch = real  # type: ignore[method-assign]
    for overtaken in (watch, late):
        with pytest.raises(Compacted):
            await next_changes(overtaken, 1)
    again = store.watch("k/")
    assert keys_of(await store.range("k/")) == ["k/last", "k/meanwhile"]
    await put(other, "k/after")
    assert keys_of(await next_changes(again, 1)) == ["k/after"]
    await store.close()
    await other.close()


async def test_while_etcd_is_away_calls_say_so_and_come_back(
    alone: etcdlab.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await EtcdStore.open(alone.access, "away")
    watch = store.watch("")
    alone.kill()
    monkeypatch.setattr(etcd_client, "PATIENCE_SECONDS", 0.3)
    for call in (store.get("a"), store.range(""), store.revision(), put(store, "a")):
        with pytest.raises(Unavailable, match="cannot be used") as told:
            await call
        assert told.value.facts["retry_after_seconds"] == 1
    monkeypatch.undo()
    await asyncio.to_thread(alone.start)
    async with asyncio.timeout(60):
        while True:
            try:
                await put(store, "a")
                break
            except Unavailable:
                continue
    assert keys_of(await next_changes(watch, 1)) == ["a"]
    await store.close()


async def test_closing_lets_go_of_calls_that_wait(alone: etcdlab.Cluster) -> None:
    store = await EtcdStore.open(alone.access, "closing")
    (member,) = alone.members
    alone.signal(member, signal.SIGSTOP)
    try:
        waiting = [asyncio.create_task(call) for call in (store.get("a"), put(store, "a"))]
        await asyncio.sleep(0)
        await store.close()
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, Unavailable)
    finally:
        alone.signal(member, signal.SIGCONT)


async def test_a_new_leader_takes_over() -> None:
    with etcdlab.cluster(3) as cluster:
        leader = await cluster.leader()
        store = await EtcdStore.open(cluster.access, "three")
        watch = store.watch("")
        first = await put(store, "before")
        cluster.kill(leader)
        async with asyncio.timeout(60):
            while True:
                try:
                    last = await put(store, "after")
                    break
                except Unavailable:
                    continue
        assert last > first
        assert keys_of(await store.range("")) == ["after", "before"]
        assert {change.key for change in await next_changes(watch, 2)} == {"before", "after"}
        cluster.start(leader)
        held = await cluster.leader()
        cluster.signal(held, signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                while True:
                    try:
                        await put(store, "while one hangs")
                        break
                    except Unavailable:
                        continue
        finally:
            cluster.signal(held, signal.SIGCONT)
        assert await store.count("") == 3
        await store.close()


async def test_a_lease_of_a_process_that_is_no_more_ends(etcd: etcdlab.Cluster) -> None:
    prefix = uuid.uuid4().hex
    gone = await EtcdStore.open(etcd.access, prefix, spare_seconds=0.5)
    here = await EtcdStore.open(etcd.access, prefix)
    watch = here.watch("")
    await put(gone, "lease", ttl=1)
    await put(gone, "stays")
    await gone.close()
    seen = await next_changes(watch, 3)
    assert [(change.key, change.record is None) for change in seen] == [
        ("lease", False),
        ("stays", False),
        ("lease", True),
    ]
    assert keys_of(await here.range("")) == ["stays"]
    await here.close()
    await etcdlab.wipe(etcd.access, prefix)


async def test_a_lease_is_exact_while_its_process_lives(store: EtcdStore) -> None:
    watch = store.watch("")
    loop = asyncio.get_running_loop()
    start = loop.time()
    await put(store, "lease", ttl=0.4)
    seen = await next_changes(watch, 2)
    assert [change.record is None for change in seen] == [False, True]
    assert loop.time() - start >= 0.4
    assert await store.get("lease") is None


async def test_many_leases_share_few_of_etcds(etcd: etcdlab.Cluster) -> None:
    prefix = uuid.uuid4().hex
    store = await EtcdStore.open(etcd.access, prefix, clock=FakeClock())
    before = len(etcd.control("lease", "list").splitlines())
    for number in range(100):
        ops = [Put(f"receipt/{number}", b"", 172_800), Put(f"event/{number}", b"", 604_800)]
        await store.apply(Transaction((), ops))
    assert len(etcd.control("lease", "list").splitlines()) - before <= 2
    await store.close()
    await etcdlab.wipe(etcd.access, prefix)


async def test_leases_that_etcd_has_forgotten_are_made_anew(etcd: etcdlab.Cluster, store: EtcdStore) -> None:
    await put(store, "a", ttl=100)
    for lease in etcd.control("lease", "list").split():
        if len(lease) == 16:
            etcd.control("lease", "revoke", lease)
    assert await store.get("a") is None
    await put(store, "b", ttl=100)
    assert await store.get("b")


async def test_stores_with_other_prefixes_know_nothing_of_each_other(etcd: etcdlab.Cluster) -> None:
    names = [uuid.uuid4().hex, uuid.uuid4().hex]
    names.append(names[0] + "0")
    stores = [await EtcdStore.open(etcd.access, name) for name in names]
    watch = stores[1].watch("")
    assert await stores[2].revision() >= 0
    await put(stores[0], "a", value=b"1")
    await put(stores[2], "a", value=b"3")
    assert [await one.count("") for one in stores] == [1, 0, 1]
    await put(stores[1], "b")
    assert keys_of(await next_changes(watch, 1)) == ["b"]
    for store, name in zip(stores, names, strict=True):
        await store.close()
        await etcdlab.wipe(etcd.access, name)


async def test_a_watch_from_a_revision_that_another_process_gave(etcd: etcdlab.Cluster) -> None:
    prefix = uuid.uuid4().hex
    one, two = await EtcdStore.open(etcd.access, prefix), await EtcdStore.open(etcd.access, prefix)
    two._seen = 0  # it has heard of nothing yet
    watch = two.watch("", await put(one, "a"))
    await put(one, "b")
    assert keys_of(await next_changes(watch, 1)) == ["b"]
    for store in (one, two):
        await store.close()
    await etcdlab.wipe(etcd.access, prefix)


QUOTA = ("--quota-backend-bytes", str(16 << 20))


async def test_a_full_etcd_says_so_and_loses_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_room, "FIRST_PAUSE_SECONDS", 0.1)
    with etcdlab.cluster(options=QUOTA) as cluster:
        store = await EtcdStore.open(cluster.access, "full")
        kept = []
        with pytest.raises(Unavailable, match="quota") as told:
            for number in range(100):
                await put(store, f"{number:03}", value=bytes(1 << 20))
                kept.append(f"{number:03}")
        assert told.value.facts["retry_after_seconds"] == 5
        async with asyncio.timeout(60):
            while "raise --quota-backend-bytes" not in caplog.text:
                with contextlib.suppress(Unavailable):
                    await put(store, "more", value=bytes(1 << 20))
                    kept.append("more")
                await asyncio.sleep(0.1)
        assert keys_of(await store.range("")) == list(dict.fromkeys(kept))
        with pytest.raises(Unavailable, match="quota"):
            await put(store, "more")
        await store.close()


async def test_an_etcd_that_history_has_filled_heals_by_itself() -> None:
    with etcdlab.cluster(3, options=QUOTA) as cluster:
        stores = [await EtcdStore.open(cluster.access, "full") for _ in range(2)]
        seen = asyncio.create_task(next_changes(stores[1].watch("k"), 3))
        await put(stores[0], "kept")
        with pytest.raises(Unavailable, match="quota"):
            for _ in range(100):
                await put(stores[0], "history", value=bytes(1 << 20))
        assert keys_of(await stores[1].range("k")) == ["kept"]
        async with asyncio.timeout(60):
            while "NOSPACE" in await asyncio.to_thread(cluster.control, "alarm", "list"):
                await asyncio.sleep(0.1)
        for number, store in enumerate(stores):
            await put(store, f"k{number}")
        assert keys_of(await seen) == ["kept", "k0", "k1"]
        for store in stores:
            await store.close()


async def test_what_cannot_be_opened_says_why(etcd: etcdlab.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = uuid.uuid4().hex
    etcd.control("put", f"{prefix}/other", "x")
    with pytest.raises(Unavailable, match="something else"):
        await EtcdStore.open(etcd.access, prefix)
    etcd.control("del", "--prefix", f"{prefix}/")
    etcd.control("put", f"{prefix}/m/meta", '{"version": 99, "revision": 0}')
    with pytest.raises(Unavailable, match="version 99"):
        await EtcdStore.open(etcd.access, prefix)
    etcd.control("put", f"{prefix}/m/meta", '{"version": 1, "revision": 0, "loading": true}')
    with pytest.raises(Unavailable, match="not finished"):
        await EtcdStore.open(etcd.access, prefix)
    await etcdlab.wipe(etcd.access, prefix)
    (port,) = etcdlab.free_ports(1)
    monkeypatch.setattr(etcd_client, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(Unavailable, match="reachable"):
        await EtcdStore.open(etcd_client.Access(endpoints=(f"127.0.0.1:{port}",)), prefix)


async def test_one_dead_endpoint_is_passed_over(etcd: etcdlab.Cluster) -> None:
    prefix = uuid.uuid4().hex
    (port,) = etcdlab.free_ports(1)
    access = etcd_client.Access(endpoints=(f"127.0.0.1:{port}", *etcd.endpoints))
    store = await EtcdStore.open(access, prefix)
    watch = store.watch("")
    await put(store, "a")
    assert keys_of(await next_changes(watch, 1)) == ["a"]
    await store.close()
    await etcdlab.wipe(etcd.access, prefix)


async def test_a_check_that_fails_costs_no_revision(store: EtcdStore) -> None:
    before = await put(store, "a")
    with pytest.raises(CheckFailed):
        await store.apply(Transaction((Check("a", 0),), (Put("a", b""),)))
    assert await store.revision() == before
