"""A server over stand-ins on a unix socket, our client to it, and a bare HTTP client for what ours would never send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from harness import Harness
from rest.standins import KNOWN, World

from portlayer.compose import Settings
from portlayer.interfaces.components import Components
from portlayer.interfaces.store import Store
from portlayer.model.caller import Caller
from portlayer.model.execution import Wait
from portlayer.model.storage import CreateVolume
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server
from portlayer.stores.memory import MemoryStore


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def server(world: World, tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(world.components)
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


@pytest.fixture(scope="module")
def rest_app_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], AbstractAsyncContextManager[Components]]:
    """What schemathesis is let loose on: real components on the memory substrate, and one of everything."""
    directory = tmp_path_factory.mktemp("port layer")

    @asynccontextmanager
    async def app() -> AsyncIterator[Components]:
        store = MemoryStore()

        async def open_store() -> Store:
            return store

        harness = Harness(open_store, directory, Settings())
        await harness.start()
        await harness.image()
        await harness.network(KNOWN["network"])
        await harness.pl.storage.create_volume(Caller(), CreateVolume(name=KNOWN["storage"]))
        await harness.run("true", name=KNOWN["execution"], network=KNOWN["network"], volume=KNOWN["storage"])
        await harness.pl.execution.wait(Caller(), Wait(ref=KNOWN["execution"]))
        try:
            yield harness.pl
        finally:
            await harness.close()

    return app
