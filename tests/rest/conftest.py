"""A server over stand-ins on a unix socket, our client to it, and a bare HTTP client for what ours would never send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rest.standins import World, flow

from portlayer.interfaces.components import Components
from portlayer.model.service import KvEntry
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server


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
def rest_app_factory() -> Callable[[], AbstractAsyncContextManager[Components]]:
    """What schemathesis is let loose on."""

    @asynccontextmanager
    async def app() -> AsyncIterator[Components]:
        world = World()
        entry = KvEntry(key="k", value=b"v", etag="1")
        world.answer("service", "get_kv", entry)
        world.answer("service", "put_kv", entry)
        for method in ("output", "logs"):
            world.behave("interaction", method, nothing)
        yield world.components

    async def nothing(*_: Any) -> AsyncIterator[Any]:
        return flow()

    return app
