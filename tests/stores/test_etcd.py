"""The etcd store, against what every store must do; etcd is a real one."""

from __future__ import annotations

import uuid

import etcdlab
import pytest
from conformance.store import StoreConformance, law
from conformance.store_tools import KEPT_DELETIONS, FakeClock

from portlayer.stores.etcd import EtcdStore

SPARE_SECONDS = 600.0
"""So that etcd ends no lease by the time of the host, while the clock of the test stands still."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(etcd: etcdlab.Cluster, clock: FakeClock):
    prefix = uuid.uuid4().hex
    store = await EtcdStore.open(
        etcd.access, prefix, clock=clock, kept_revisions=KEPT_DELETIONS, spare_seconds=SPARE_SECONDS
    )
    yield store
    await store.close()
    await etcdlab.wipe(etcd.access, prefix)


class TestEtcdStore(StoreConformance):
    test_it_does_what_a_dict_does = law()
