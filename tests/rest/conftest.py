"""A server over stand-ins on a unix socket, our client to it, and a bare HTTP client for what ours would never send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from apart.cluster import TOPOLOGIES, Cluster, opened
from driver import ME, Driver
from rest.hops import HAVING, reached
from rest.standins import KNOWN, World
from rest.tlsrig import Rig, running

from portlayer.interfaces.components import Components
from portlayer.model.storage import CreateVolume
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=HAVING)
async def server(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> AsyncIterator[Server]:
    """The server that callers reach: with the stand-ins, or a hop away from some or all of them."""
    async with reached(world.components, request.param, tmp_path) as components:
        server = Server(components)
        await server.listen_unix(tmp_path / "s")
        yield server
        await server.drain(5)


@pytest.fixture
async def client(server: Server, tmp_path: Path) -> AsyncIterator[RestClient]:
    async with RestClient(f"unix://{tmp_path / 's'}") as client:
        yield client


@pytest.fixture
async def http(server: Server, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        yield session


@pytest.fixture(params=TOPOLOGIES)
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """Real components on the memory substrate, in every topology; `served` is what callers reach."""
    async with opened(request.param, tmp_path) as cluster:
        yield cluster


@pytest.fixture(params=TOPOLOGIES)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """The same, which callers reach over TLS."""
    async with running(tmp_path, topology=request.param) as rig:
        yield rig


@pytest.fixture(scope="module")
def rest_app_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], AbstractAsyncContextManager[Components]]:
    """What schemathesis is let loose on: real components on the memory substrate, and one of everything."""

    @asynccontextmanager
    async def app() -> AsyncIterator[Components]:
        async with opened(request.param, tmp_path_factory.mktemp("port layer")) as cluster:
            driver = Driver(cluster.served)
            await driver.image()
            await driver.network(KNOWN["network"])
            await driver.pl.storage.create_volume(ME, CreateVolume(name=KNOWN["storage"]))
            await driver.run("true", name=KNOWN["execution"], network=KNOWN["network"], volume=KNOWN["storage"])
            await driver.wait(KNOWN["execution"])
            yield cluster.served

    return app
