"""The client over real components on the memory substrate: in this process, and behind REST."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import builders
import pytest
from apart.cluster import TOPOLOGIES, Cluster
from harness import Harness

from portlayer.client import PortLayer, connect
from portlayer.compose import Settings
from portlayer.interfaces.store import Store
from portlayer.rest.server import Server
from portlayer.stores.memory import MemoryStore


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Harness]:
    """A port layer all in memory, with the image busybox and the network gibson_network."""

    async def open_store() -> Store:
        return MemoryStore()

    harness = Harness(open_store, tmp_path, Settings())
    await harness.start()
    await harness.image()
    await harness.network()
    yield harness
    await harness.close()


@pytest.fixture
async def host(quick: Harness, tmp_path: Path) -> AsyncIterator[str]:
    """Where it is served."""
    server = Server(quick.pl)
    await server.listen_unix(tmp_path / "s")
    yield f"unix://{tmp_path / 's'}"
    await server.drain(5)


@pytest.fixture(params=["local", "rest", "each apart"])
async def pl(request: pytest.FixtureRequest, quick: Harness, host: str, tmp_path: Path) -> AsyncIterator[PortLayer]:
    """A client to it, both ways; and one to another like it, whose components are processes of their own."""
    if request.param == "local":
        async with connect(quick.pl) as pl:
            yield pl
    elif request.param == "rest":
        async with connect(host=host) as pl:
            yield pl
    else:
        (tmp_path / "apart").mkdir()
        async with Cluster(TOPOLOGIES[request.param], MemoryStore(), tmp_path / "apart") as cluster, cluster.at() as pl:
            await pl.storage.import_image(builders.layer()[1], name="busybox", format="rootfs")
            await pl.network.create_network("gibson_network")
            yield pl


@pytest.fixture
async def served(host: str) -> AsyncIterator[PortLayer]:
    """A client to it over REST."""
    async with connect(host=host) as pl:
        yield pl
