"""The store goes away in the middle of a commit, and comes back: nobody has died, and nothing is half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import etcdlab
import pytest
from commit_kinds import check, create_and_start, setting
from harness import Harness, harness_over

from portlayer.interfaces.store import Store
from portlayer.model.errors import Unavailable
from portlayer.stores import etcd_client
from portlayer.stores.etcd import EtcdStore


@pytest.fixture
def cluster():
    """An etcd that a test may do anything to."""
    with etcdlab.cluster() as cluster:
        yield cluster


@pytest.fixture
async def harness(cluster: etcdlab.Cluster, tmp_path: Path) -> AsyncIterator[Harness]:
    async def open_store() -> Store:
        return await EtcdStore.open(cluster.access, "gone")

    async with harness_over(open_store, tmp_path) as harness:
        yield harness


@pytest.mark.parametrize(
    "point", ["commit.intent", "commit.done.Prepare", "commit.done.Publish", "commit.record", "commit.done.Release"]
)
async def test_the_same_handle_tells_once_it_is_back(
    harness: Harness, cluster: etcdlab.Cluster, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    await setting(harness)
    work = await create_and_start(harness)
    reached, go = asyncio.Event(), asyncio.Event()

    async def hold(_: str) -> None:
        reached.set()
        await go.wait()

    harness.failpoints.arm(point, hold)
    first = asyncio.ensure_future(work())
    await reached.wait()
    cluster.kill()
    monkeypatch.setattr(etcd_client, "PATIENCE_SECONDS", 0.3)
    harness.failpoints.disarm()
    go.set()
    answer = (await asyncio.gather(first, return_exceptions=True))[0]
    assert isinstance(answer, Unavailable) or answer.state == "running"
    monkeypatch.undo()
    await asyncio.to_thread(cluster.start)
    async with asyncio.timeout(60):
        while True:
            try:
                done = await work()
                break
            except Unavailable:
                await asyncio.sleep(0.1)
    assert done.state == "running"
    assert answer == done or isinstance(answer, Unavailable)
    assert await work() == done
    assert len(harness.world.incarnations) == 1
    await check(harness)
