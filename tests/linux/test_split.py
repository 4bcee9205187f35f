"""One host's substrate in several processes: each starts what its components need of it, and nobody can tell."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import builders
import images
import pytest
from conformance.substrate_interaction import InteractionSuite
from linux.test_conformance import LinuxBench

from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.substrate import LinuxSubstrate

REST = frozenset({"storage", "execution", "network"})


class SplitBench(LinuxBench):
    """Interaction has a substrate object of its own, as it has in a process of its own."""

    async def set_up(self) -> None:
        await self._open()
        await super().set_up()

    async def tear_down(self) -> None:
        await self._alone.close()
        await super().tear_down()

    async def restart(self) -> None:
        await self._alone.close()
        await self.substrate.close()
        self.substrate = LinuxSubstrate(self._paths)
        await self._open()

    async def _open(self) -> None:
        self._alone = LinuxSubstrate(self._paths)
        await self._alone.start(frozenset({"interaction"}))
        await self.substrate.start(REST)
        self.substrate.interaction = self._alone.interaction


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[SplitBench]:
    bench = SplitBench(tmp_path)
    await bench.set_up()
    yield bench
    await bench.tear_down()


class TestInteraction(InteractionSuite):
    pass


async def test_layers_are_put_by_one_process_and_used_by_another(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run", instance=os.urandom(4).hex())
    storage, execution = LinuxSubstrate(paths), LinuxSubstrate(paths)
    await storage.start(frozenset({"storage"}))
    await execution.start()
    try:
        tar = images.tar([images.file("hello", b"there")])
        await storage.storage.put_layer(builders.diff_id(tar), images.stream(tar))
        container = builders.container(layers=[builders.diff_id(tar)])
        await execution.storage.make_rootfs(container)
        assert (paths.rootfs(container.id) / "hello").read_bytes() == b"there"
        await execution.storage.remove_rootfs(container.id)
    finally:
        await execution.close()
        await storage.close()


async def test_a_start_leaves_what_another_process_unpacks(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run", instance=os.urandom(4).hex())
    first, second = LinuxSubstrate(paths), LinuxSubstrate(paths)
    await first.start(frozenset({"storage"}))
    tar = images.tar([images.file("hello", b"there")])

    async def slowly() -> AsyncIterator[bytes]:
        yield tar[:512]
        await second.start(frozenset({"storage"}))
        yield tar[512:]

    try:
        await first.storage.put_layer(builders.diff_id(tar), slowly())
        assert await second.storage.has_layer(builders.diff_id(tar))
    finally:
        await second.close()
        await first.close()
