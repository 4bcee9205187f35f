"""What tests of the network driver share: a host of its own, and the driver on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from linux import netlab
from linux.netlab import Lab

from portlayer.substrates.linux.network import LinuxNetwork


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with netlab.lab_in(tmp_path) as lab:
        yield lab


@pytest.fixture
async def driver(lab: Lab) -> AsyncIterator[LinuxNetwork]:
    async with netlab.driver_of(lab) as driver:
        yield driver
