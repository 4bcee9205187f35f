"""Moving a store from SQLite to etcd and back, and backups: nothing is lost, and what must not come back does not."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import etcdlab
import pytest
from conformance.store_tools import delete, keys_of, next_changes, put

from portlayer.components.membership import Process
from portlayer.components.records import encode
from portlayer.compose import Settings
from portlayer.compose.copies import back_up, migrate_store, rekey, restore
from portlayer.interfaces.store import Check, CheckFailed, Compacted, Put, Record, Store, Transaction
from portlayer.model.base import now
from portlayer.model.errors import InUse, InvalidArgument, Unavailable
from portlayer.model.topology import Part
from portlayer.stores import choice, etcd_copy
from portlayer.stores.choice import StoreChoice, open_store, parse_url
from portlayer.stores.etcd import EtcdStore
from portlayer.stores.snapshot import read

MANY = [f"many/{number:04}" for number in range(1500)]


@pytest.fixture
async def url(etcd: etcdlab.Cluster) -> AsyncIterator[str]:
    prefix = uuid.uuid4().hex
    yield f"etcd://{etcd.endpoints[0]}/{prefix}"
    await etcdlab.wipe(etcd.access, prefix)


@pytest.fixture(params=["sqlite", "etcd"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> Settings:
    """A port layer's settings, with a store of either kind."""
    store = StoreChoice() if request.param == "sqlite" else parse_url(url)
    return Settings(state=str(tmp_path), store=store)


@pytest.fixture
def other(settings: Settings, url: str) -> str:
    """A store of the other kind."""
    return url if settings.store.kind == "sqlite" else "sqlite"


async def opened(settings: Settings) -> Store:
    return await open_store(settings.store, Path(settings.state))


def moved(settings: Settings, to: str) -> Settings:
    return Settings(state=settings.state, store=parse_url(to))


async def fill(settings: Settings) -> tuple[list[Record], list[Record], int]:
    """Records of all sorts; those there are by key, those by revision, and the last revision."""
    store = await opened(settings)
    await put(store, "a", "gone", value=b"1")
    await put(store, "a", value=b"\0\xff")
    await store.apply(Transaction((), [Put("z", b""), Put("b", b"x" * 100_000), Put("ä/ü", b"")]))
    for start in range(0, len(MANY), 100):
        await put(store, *MANY[start : start + 100], value=b"v" * 50)
    await put(store, "lease", value=b"l", ttl=100)
    await put(store, "receipt", ttl=172_800)
    last = await delete(store, "gone")
    held = await store.range(""), await store.since("", 0), last
    await store.close()
    return held


async def test_a_store_that_is_moved_is_the_same_there_and_back(settings: Settings, other: str) -> None:
    by_key, by_place, last = await fill(settings)
    assert await migrate_store(settings, other, replace=False) == len(by_key)
    there = moved(settings, other)
    back = (
        "sqlite" if settings.store.kind == "sqlite" else f"etcd://{settings.store.endpoints[0]}/{settings.store.prefix}"
    )
    for at in (there, settings):
        if at is settings:
            await migrate_store(there, back, replace=True)
        store = await opened(at)
        assert await store.range("") == by_key
        assert await store.since("", 0) == by_place
        assert (
            await store.since("", by_place[40].revision, limit=3)
            == [row for row in by_place if row.revision > by_place[40].revision][:3]
        )
        assert last <= await store.revision() <= last + 10
        await store.close()


async def test_what_was_read_before_can_be_demanded_after(settings: Settings, other: str) -> None:
    by_key, _, last = await fill(settings)
    before = {row.key: row.revision for row in by_key}
    await migrate_store(settings, other, replace=False)
    store = await opened(moved(settings, other))
    watch = store.watch("")
    good = (Check("a", before["a"]), Check("b", before["b"]), Check("z", None), Check("gone", 0))
    after = await store.apply(Transaction(good, (Put("a", b"2"),)))
    assert after > last
    for bad in (Check("a", before["a"]), Check("b", before["b"] + 1)):
        with pytest.raises(CheckFailed):
            await store.apply(Transaction((bad, Check("z", before["z"])), (Put("x", b""),)))
    assert keys_of(await next_changes(watch, 1)) == ["a"]
    assert keys_of(await next_changes(store.watch("", last), 1)) == ["a"]
    assert keys_of(await store.since("", last)) == ["a"]
    with pytest.raises(Compacted):
        await next_changes(store.watch("", last - 1), 1)
    await store.close()


async def test_leases_keep_the_time_that_was_left(settings: Settings, other: str) -> None:
    await fill(settings)
    await migrate_store(settings, other, replace=False)
    there = await choice.dump(parse_url(other), Path(settings.state))
    left = {row.key: (row.ttl, row.left) for row in there.rows if row.ttl is not None}
    assert left.keys() == {"lease", "receipt"}
    assert left["lease"][0] == 100
    assert 60 < left["lease"][1] <= 102
    assert left["receipt"][0] == 172_800
    assert 172_700 < left["receipt"][1] <= 172_802


async def test_nothing_is_replaced_unasked(settings: Settings, other: str) -> None:
    await fill(settings)
    store = await opened(moved(settings, other))
    await put(store, "precious")
    await store.close()
    with pytest.raises(InUse):
        await migrate_store(settings, other, replace=False)
    store = await opened(moved(settings, other))
    assert keys_of(await store.range("")) == ["precious"]
    await store.close()
    await migrate_store(settings, other, replace=True)
    store = await opened(moved(settings, other))
    assert await store.get("precious") is None
    await store.close()


async def test_a_store_that_a_server_elsewhere_uses_stays_where_it_is(tmp_path: Path, url: str) -> None:
    """Of a SQLite store, the lock of its directory tells (tests/cli/test_store.py)."""
    here, there = Settings(state=str(tmp_path)), Settings(state=str(tmp_path), store=parse_url(url))
    await fill(here)
    await back_up(here, tmp_path / "backup")
    await migrate_store(here, url, replace=False)
    store = await opened(there)
    process = encode(Process(part=Part(name="second", host="east"), started_at=now()))
    await put(store, "/processes/1", value=process, ttl=30)
    for work in (
        migrate_store(there, "sqlite", replace=True),
        migrate_store(here, url, replace=True),
        restore(there, tmp_path / "backup", replace=True),
        rekey(there),
    ):
        with pytest.raises(InUse, match="second on host east"):
            await work
    assert await store.get("/processes/1")
    await delete(store, "/processes/1")
    await store.close()
    await migrate_store(there, "sqlite", replace=True)


async def test_a_copy_that_was_broken_off_cannot_be_opened_and_can_be_made_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state=str(tmp_path))
    by_key, _, _ = await fill(settings)

    async def cut(*_: object) -> None:
        raise Unavailable("the process is gone")

    with monkeypatch.context() as patched:
        patched.setattr(etcd_copy, "_fill", cut)
        with pytest.raises(Unavailable, match="gone"):
            await migrate_store(settings, url, replace=False)
    with pytest.raises(Unavailable, match="not finished"):
        await opened(moved(settings, url))
    assert await migrate_store(settings, url, replace=False) == len(by_key)


async def test_a_backup_is_restored_and_history_goes_on(settings: Settings, tmp_path: Path) -> None:
    by_key, _, _ = await fill(settings)
    file = tmp_path / "backup"
    store = await opened(settings)
    await put(store, "/meta/keys", value=b"the key ring")
    assert await back_up(settings, file) == len(by_key) + 1
    assert file.stat().st_mode & 0o777 == 0o600
    last = await put(store, "a", "later")
    await store.close()
    with pytest.raises(InUse):
        await restore(settings, file, replace=False)
    assert await restore(settings, file, replace=True) == len(by_key)
    store = await opened(settings)
    assert await store.range("") == by_key
    assert await store.revision() > last
    await put(store, "goes on")
    await store.close()


async def test_a_backup_of_one_kind_is_restored_in_the_other(settings: Settings, other: str, tmp_path: Path) -> None:
    by_key, by_place, _ = await fill(settings)
    await back_up(settings, tmp_path / "backup")
    there = moved(settings, other)
    await restore(there, tmp_path / "backup", replace=False)
    store = await opened(there)
    assert await store.range("") == by_key
    assert await store.since("", 0) == by_place
    await store.close()


async def test_what_is_no_backup_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    settings = Settings(state=str(tmp_path))
    await fill(settings)
    file = tmp_path / "backup"
    await back_up(settings, file)
    whole = file.read_bytes()
    changed = whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:]
    for data, words in (
        (b"nonsense", "no backup"),
        (whole[:-10], "damaged"),
        (changed, "damaged"),
        (None, "cannot be read"),
    ):
        file.unlink(missing_ok=True)
        if data is not None:
            file.write_bytes(data)
        with pytest.raises(InvalidArgument, match=words):
            await restore(settings, file, replace=True)
    store = await opened(settings)
    assert await store.get("a")
    await store.close()
    with pytest.raises(Unavailable, match="cannot be written"):
        await back_up(settings, tmp_path / "no" / "backup")
    with pytest.raises(Unavailable, match="no store"):
        await back_up(Settings(state=str(tmp_path / "nowhere")), file)


async def test_a_backup_while_others_write_is_of_one_instant(settings: Settings, tmp_path: Path) -> None:
    store = await opened(settings)
    done = asyncio.Event()

    async def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            await put(store, "x", "y", "z", value=b"%d" % number)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        for _ in range(5):
            await back_up(settings, tmp_path / "backup")
            assert len({row.value for row in read(tmp_path / "backup").rows}) <= 1
        done.set()
    await store.close()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("postgres://x", "no store"),
        ("etcd://", "no endpoint"),
        ("etcd://host/p", "no endpoint"),
        ("etcd://host:1/p/q", "one word"),
        ("etcd://user@host:1/p", "passwordFile"),
        ("etcd://user:secret@host:1/p", "does not belong"),
        ("etcd://host:1/p?caa=x", "unknown options"),
        ("etcds://host:1/p?ca=/nowhere", "cannot be read"),
        ("etcds://host:1/p?cert=/nowhere", "both cert and key"),
    ],
)
async def test_a_store_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await open_store(parse_url(text), tmp_path)


def test_a_store_in_words() -> None:
    chosen = parse_url("etcds://me@one:1,two:2/mine?ca=/ca&passwordFile=/pw")
    assert chosen == StoreChoice(
        kind="etcd", endpoints=("one:1", "two:2"), prefix="mine", tls=True, ca="/ca", user="me", password_file="/pw"
    )
    assert parse_url("sqlite") == StoreChoice()
    assert EtcdStore.name == "etcd"
