"""A store that is measured does what it did, and says how long that took."""

from __future__ import annotations

import pytest
from conformance.store import StoreConformance
from conformance.store_tools import KEPT_DELETIONS, FakeClock

from portlayer.interfaces.store import Check, CheckFailed, Put, Transaction
from portlayer.metrics import Metrics
from portlayer.model.errors import InvalidArgument
from portlayer.stores.measured import MeasuredStore
from portlayer.stores.memory import MemoryStore


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def store(clock: FakeClock, metrics: Metrics):
    store = MeasuredStore(MemoryStore(clock=clock, kept_deletions=KEPT_DELETIONS), metrics)
    yield store
    await store.close()


class TestMeasuredStore(StoreConformance):
    pass


async def test_calls_failures_and_watches_are_counted(store: MeasuredStore, metrics: Metrics) -> None:
    await store.apply(Transaction(ops=(Put("/a", b"1"),)))
    with pytest.raises(CheckFailed):
        await store.apply(Transaction(checks=(Check("/a", 0),)))
    with pytest.raises(InvalidArgument):
        await store.apply(Transaction(ops=(Put("", b"1"),), durable=False))
    watches = [store.watch("/"), store.watch("/")]
    lines = metrics.text().splitlines()
    assert 'portlayer_store_seconds_count{call="apply"} 2' in lines
    assert 'portlayer_store_errors_total{call="apply, not durable",error="InvalidArgument"} 1' in lines
    assert sum(line.startswith("portlayer_store_errors_total{") for line in lines) == 1, "a check that fails is none"
    assert "portlayer_store_watches 2" in lines
    for watch in watches:
        await watch.aclose()
        await watch.aclose()
    assert "portlayer_store_watches 0" in metrics.text().splitlines()
    ended = store.watch("/")
    await store.close()
    with pytest.raises(StopAsyncIteration):
        await anext(ended)
    assert "portlayer_store_watches 0" in metrics.text().splitlines()
