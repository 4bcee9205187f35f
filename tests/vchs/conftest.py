"""Two tenants beside `default`, of one port layer on the memory substrate, whoever runs where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from apart.cluster import TOGETHER, TOPOLOGIES, Cluster, opened
from driver import ME, Driver

from portlayer.interfaces.components import Components
from portlayer.model import service as v
from portlayer.model.errors import Unavailable
from portlayer.rest.client import RestClient
from portlayer.stores.sqlite import SqliteStore

T = TypeVar("T")
SQLITE = "on SQLite"
RETRIES = 5  # what is asked for at the same time may meet a move


class Whole(Driver):
    """A port layer behind REST, as its callers reach it. store: of all its processes; world: of the host that storage
    is on, which is called host. moves: components do under way, so that each change takes its time."""

    def __init__(self, pl: Components, cluster: Cluster) -> None:
        super().__init__(pl)
        self.store = cluster.store
        self.world = cluster.world
        self.host = cluster.topology.parts[0].host
        self.moves = cluster.moves
        self._worlds = cluster.worlds

    def everywhere(self, what: str) -> dict[Any, Any]:
        """What there is on all hosts: `incarnations`, `networks`, ..."""
        return {name: one for world in self._worlds.values() for name, one in getattr(world, what).items()}


async def uploaded(upload: Callable[[], Awaitable[T]]) -> T:
    """What *upload* gives: the client sends what flows once, so who meets a move sends it anew."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await upload()
            except Unavailable as error:
                assert error.facts["retry_after_seconds"], error
                await asyncio.sleep(0)


@pytest.fixture(params=[*TOPOLOGIES, SQLITE])
async def whole(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Whole]:
    """It has the image busybox. What is passed on to another process tells no more."""
    store = await SqliteStore.open(tmp_path / "store.db") if request.param == SQLITE else None
    name = TOGETHER if store else request.param
    async with (
        opened(name, tmp_path, store) as cluster,
        RestClient(cluster.address(cluster.doors[0]), retries=RETRIES) as client,
    ):
        whole = Whole(client.components, cluster)
        await whole.image()
        yield whole
    if store:
        await store.close()


async def make(harness: Driver, name: str, **quota: float) -> Driver:
    """The VCH *name* with a quota, the image busybox and a network."""
    await harness.pl.service.create_vch(ME, v.CreateVch(name=name, quota=v.Quota(**quota)))  # type: ignore[arg-type]
    tenant = harness.of(name)
    await tenant.image()
    await tenant.network()
    return tenant


async def change(harness: Driver, name: str, **limits: float | None) -> v.Vch:
    request = v.UpdateVch(ref=name, quota=v.QuotaChange(**limits))  # type: ignore[arg-type]
    return await harness.pl.service.update_vch(ME, request)


async def look(harness: Driver, name: str) -> v.Vch:
    return await harness.pl.service.get_vch(ME, v.VchRef(ref=name))


async def delete(harness: Driver, name: str, **fields: bool) -> None:
    await harness.pl.service.delete_vch(ME, v.DeleteVch(ref=name, **fields))


@pytest.fixture
async def left(whole: Whole) -> Driver:
    return await make(whole, "left")


@pytest.fixture
async def right(whole: Whole) -> Driver:
    return await make(whole, "right")
