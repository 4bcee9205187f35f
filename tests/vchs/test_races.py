"""Quotas hold where those that race come in by several processes, over each store, or have their components apart."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import etcdlab
import pytest
from apart.cluster import opened
from driver import Driver
from harness import Harness
from vchs.conftest import change, look, make
from vchs.test_quota import CASES

from portlayer.compose import Settings
from portlayer.interfaces.store import Store
from portlayer.model.errors import ResourceExhausted
from portlayer.stores.etcd import EtcdStore
from portlayer.stores.sqlite import SqliteStore


@contextlib.asynccontextmanager
async def two_processes(store: str, etcd: etcdlab.Cluster, directory: Path) -> AsyncIterator[list[Driver]]:
    prefix = uuid.uuid4().hex
    async with contextlib.AsyncExitStack() as stack:

        async def open_store() -> Store:
            store_of = EtcdStore.open(etcd.access, prefix) if store == "etcd" else SqliteStore.open(directory / "db")
            found: Store = await store_of
            stack.push_async_callback(found.close)
            return found

        stack.push_async_callback(etcdlab.wipe, etcd.access, prefix)
        first = Harness(open_store, directory, Settings())
        await first.start()
        stack.push_async_callback(first.close)
        second = await first.another()
        stack.push_async_callback(second.stop)
        yield [first, second]


@pytest.fixture(params=["sqlite", "etcd", "each apart"])
async def doors(request: pytest.FixtureRequest, etcd: etcdlab.Cluster, tmp_path: Path) -> AsyncIterator[list[Driver]]:
    """Those where callers come in, each a process."""
    if request.param != "each apart":
        async with two_processes(request.param, etcd, tmp_path) as processes:
            yield processes
        return
    async with opened(request.param, tmp_path) as cluster:
        yield [cluster.driver(name) for name in cluster.doors]


@pytest.mark.parametrize("case", CASES)
async def test_of_those_that_race_by_several_processes_one_wins(doors: list[Driver], case: str) -> None:
    resource, take, room, racers = CASES[case]
    await make(doors[0], "tenant")
    tenants = [door.of("tenant") for door in doors]
    await (await take(tenants[0], 1000))()
    before = getattr((await look(doors[0], "tenant")).usage, resource)
    limit = round(before + room, 6)
    await change(doors[0], "tenant", **{resource: limit})
    works = [await take(tenants[number % len(tenants)], number) for number in range(racers)]
    results = await asyncio.gather(*(work() for work in works), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, ResourceExhausted) for error in refused), refused
    assert len(refused) == racers - 1
    assert before < getattr((await look(doors[-1], "tenant")).usage, resource) <= limit
