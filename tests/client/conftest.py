"""The client over real components on the memory substrate: in this process, and behind REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import builders
import pytest
from apart.cluster import TOPOLOGIES, opened
from harness import Harness, harness_over

from portlayer.client import PortLayer, connect
from portlayer.interfaces.store import Store
from portlayer.rest.server import Server
from portlayer.stores.memory import MemoryStore


@asynccontextmanager
async def in_memory(directory: Path) -> AsyncIterator[Harness]:
    """A port layer all in memory, with the image busybox and the network gibson_network."""

    async def open_store() -> Store:
        return MemoryStore()

    async with harness_over(open_store, directory) as harness:
        await harness.network()
        yield harness


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Harness]:
    async with in_memory(tmp_path) as harness:
        yield harness


@pytest.fixture
async def host(quick: Harness, tmp_path: Path) -> AsyncIterator[str]:
    """Where it is served."""
    server = Server(quick.pl)
    await server.listen_unix(tmp_path / "s")
    yield f"unix://{tmp_path / 's'}"
    await server.drain(5)


@pytest.fixture(params=["local", *TOPOLOGIES])
async def pl(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PortLayer]:
    """A client to it: in one process, and over REST, whoever runs where."""
    if request.param == "local":
        async with in_memory(tmp_path) as harness, connect(harness.pl) as pl:
            yield pl
        return
    async with opened(request.param, tmp_path) as cluster, cluster.at() as pl:
        await pl.storage.import_image(builders.layer()[1], name="busybox", format="rootfs")
        await pl.network.create_network("gibson_network")
        yield pl


@pytest.fixture
async def served(host: str) -> AsyncIterator[PortLayer]:
    """A client to it over REST."""
    async with connect(host=host) as pl:
        yield pl
