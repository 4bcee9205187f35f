"""The memory store, against what every store must do."""

from __future__ import annotations

import pytest
from conformance.store import StoreConformance, law
from conformance.store_tools import KEPT_DELETIONS, FakeClock

from portlayer.stores.memory import MemoryStore


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock):
    store = MemoryStore(clock=clock, kept_deletions=KEPT_DELETIONS)
    yield store
    await store.close()


class TestMemoryStore(StoreConformance):
    test_it_does_what_a_dict_does = law()
