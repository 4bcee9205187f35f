"""The model-based test of commits, where each component is a process of its own, and the store is etcd."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import etcdlab
import pytest
from apart.cluster import TOPOLOGIES
from apart.mortals import Mortals
from commit import test_model
from hypothesis import Phase, settings

from portlayer.stores.etcd import EtcdStore

EXAMPLES = int(os.environ.get("PORTLAYER_MODEL_EXAMPLES", "10"))
SPARE_SECONDS = 600.0
"""So that etcd ends no lease by the time of the host, while the clock of the test stands still."""


@pytest.fixture(scope="module", autouse=True)
def cluster(etcd: etcdlab.Cluster) -> Iterator[None]:
    Apart.etcd = etcd
    yield
    del Apart.etcd


class Apart(test_model.PortLayerMachine):
    """Any process may be killed, and so may any answer of the store to the one with execution be lost."""

    etcd: etcdlab.Cluster
    look_after_each = False

    def make(self) -> Any:
        self.prefix = uuid.uuid4().hex
        directory = Path(self.directory.name)
        return Mortals(TOPOLOGIES["each apart"], self._open, directory, self.clock)

    async def _open(self) -> Any:
        store = await EtcdStore.open(self.etcd.access, self.prefix, clock=self.clock, spare_seconds=SPARE_SECONDS)
        self.stores.append(store)
        return store

    async def clean(self) -> None:
        await etcdlab.wipe(self.etcd.access, self.prefix)


TestApart = Apart.TestCase
TestApart.pytestmark = [pytest.mark.timeout(1800)]
TestApart.settings = settings(
    max_examples=EXAMPLES,
    phases=[Phase.reuse, Phase.generate],  # real processes take turns as they like: what is smaller may not fail
    **{**test_model.common, "stateful_step_count": 50},
)
