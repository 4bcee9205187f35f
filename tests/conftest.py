"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import etcdlab
import hoststate
import hypothesis
import pytest
from harness import Harness, harness_over
from reports import Reports
from workers import Workers

from portlayer.compose import Settings
from portlayer.interfaces.store import Store
from portlayer.stores.memory import MemoryStore
from portlayer.stores.sqlite import SqliteStore

# How long an example takes is the machine's matter.
hypothesis.settings.register_profile(
    "any machine", hypothesis.settings(), deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.register(Reports())
    pluginmanager.register(Workers())


@pytest.fixture(scope="session", autouse=True)
def host_is_left_as_it_was() -> Iterator[None]:
    """The proof, after every session, that the tests left nothing on this host."""
    before = hoststate.picture()
    yield
    left = hoststate.left_since(before)
    assert not left, f"the tests left on this host: {left}"


@pytest.fixture(scope="session")
def etcd() -> Iterator[etcdlab.Cluster]:
    """An etcd for all tests that want one; each takes a prefix of its own."""
    with etcdlab.cluster() as cluster:
        yield cluster


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture(params=["memory", "sqlite"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> AsyncIterator[Harness]:
    """A port layer on the memory substrate, over each store, with the image busybox."""
    memory = MemoryStore()

    async def open_store() -> Store:
        return await SqliteStore.open(tmp_path / "store.db") if request.param == "sqlite" else memory

    async with harness_over(open_store, tmp_path, settings) as harness:
        yield harness


@pytest.fixture
async def second(harness: Harness) -> AsyncIterator[Harness]:
    """Another process on the store and the host of `harness`."""
    second = await harness.another()
    yield second
    await second.stop()
