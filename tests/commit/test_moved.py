"""What becomes of handles, receipts, leases and cursors when the store is moved, or restored from a backup."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import etcdlab
import pytest
from harness import ME, Harness

from portlayer.compose import Settings
from portlayer.compose.copies import back_up, migrate_store, restore
from portlayer.interfaces.store import Store
from portlayer.model.errors import HandleInvalid, NotFound
from portlayer.model.service import Subscribe
from portlayer.stores.choice import open_store, parse_url


class Movable:
    """A port layer whose store is where `settings` says at each start."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(state=str(directory))
        self.opened: list[Store] = []
        self.harness = Harness(self._open, directory, self.settings)

    async def _open(self) -> Store:
        self.opened.append(await open_store(self.settings.store, Path(self.settings.state)))
        return self.opened[-1]

    async def stop(self) -> None:
        await self.harness.stop()
        await self.opened[-1].close()

    async def move(self, to: str) -> None:
        await self.stop()
        await migrate_store(self.settings, to, replace=True)
        self.settings = Settings(state=self.settings.state, store=parse_url(to))
        await self.harness.start()

    async def events(self, since: str) -> list[str]:
        """The cursors of all that there is after *since*."""
        told = await self.harness.pl.service.events(ME, Subscribe(since=since))
        mark = await self.harness.commit(await self.harness.draft("sleep", "1"))
        cursors = []
        async for event in told:
            if event.event.id == mark.id:
                break
            cursors.append(event.cursor)
        await told.aclose()
        return cursors


@pytest.fixture
async def movable(tmp_path: Path) -> AsyncIterator[Movable]:
    movable = Movable(tmp_path)
    await movable.harness.start()
    await movable.harness.image()
    await movable.harness.network()
    yield movable
    await movable.harness.close()
    for store in movable.opened:
        await store.close()


@pytest.fixture
async def url(etcd: etcdlab.Cluster) -> AsyncIterator[str]:
    prefix = uuid.uuid4().hex
    yield f"etcd://{etcd.endpoints[0]}/{prefix}"
    await etcdlab.wipe(etcd.access, prefix)


async def test_handles_of_before_commit_after_a_move(movable: Movable, url: str) -> None:
    harness = movable.harness
    made = await harness.draft("sleep", "1000", network="gibson_network", name="cookie")
    done = await harness.draft(name="other")
    first = await harness.commit(done)
    known = await movable.events("0")
    for place in (url, "sqlite"):
        change = await harness.set_labels(await harness.handle(first.id), place=place.partition(":")[0])
        await movable.move(place)
        assert await harness.commit(done) == first
        await harness.commit(change)
        assert (await harness.inspect("other")).labels == {"place": place.partition(":")[0]}
        again = await movable.events("0")
        assert again[: len(known)] == known
        later = await movable.events(known[-1])
        assert [tuple(map(int, one.split("."))) for one in later] > [tuple(map(int, known[-1].split(".")))]
        assert not set(later) & set(known)
        known = again
    committed = await harness.commit(made)
    assert committed.endpoints[0].address == "10.210.0.2"


@pytest.mark.parametrize("place", ["sqlite", "etcd"])
async def test_handles_of_before_a_restored_backup_are_refused(
    movable: Movable, url: str, tmp_path: Path, place: str
) -> None:
    harness = movable.harness
    if place == "etcd":
        await movable.move(url)
    kept = await harness.commit(await harness.draft(name="kept"))
    handle = await harness.handle(kept.id)
    await back_up(movable.settings, tmp_path / "backup")
    await harness.commit(await harness.draft(name="later"))
    cursor = (await movable.events("0"))[-1]
    await movable.stop()
    await restore(movable.settings, tmp_path / "backup", replace=True)
    await harness.start()
    with pytest.raises(HandleInvalid):
        await harness.commit(handle)
    with pytest.raises(NotFound):
        await harness.inspect("later")
    assert (await harness.inspect("kept")).revision == kept.revision
    await harness.commit(await harness.set_labels(await harness.handle(kept.id), colour="red"))
    assert await movable.events(cursor)
