"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness import Harness

from portlayer.compose import Settings
from portlayer.interfaces.store import Store
from portlayer.stores.memory import MemoryStore
from portlayer.stores.sqlite import SqliteStore


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture(params=["memory", "sqlite"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path, settings: Settings) -> AsyncIterator[Harness]:
    """A port layer on the memory substrate, over each store, with the image busybox."""
    opened: list[Store] = []

    async def open_store() -> Store:
        if request.param == "sqlite":
            opened.append(await SqliteStore.open(tmp_path / "store.db"))
        elif not opened:
            opened.append(MemoryStore())
        return opened[-1]

    harness = Harness(open_store, tmp_path, settings)
    await harness.start()
    await harness.image()
    yield harness
    await harness.close()
    for store in opened:
        await store.close()
