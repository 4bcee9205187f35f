"""Layers that a host lacks come in turn, so that one VCH does not wait for all that another wants."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import builders
import pytest

from portlayer.components import keys
from portlayer.components.hosts import HostBook
from portlayer.components.layers import Layers
from portlayer.components.records import put
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Transaction
from portlayer.metrics import Metrics
from portlayer.model import storage as s
from portlayer.model.base import now
from portlayer.model.errors import Unavailable
from portlayer.model.execution import ContainerSpec, replace
from portlayer.stores.memory import MemoryStore
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World


class Hanging:
    """A source that never gives anything. asked: the VCHs that it was asked for, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.came = asyncio.Condition()
        self.away = asyncio.Event()

    async def open(self, vch: str, digest: str, begin: int = 0) -> Any:
        del digest, begin
        async with self.came:
            self.asked.append(vch)
            self.came.notify_all()
        await self.away.wait()
        raise Unavailable("Storage is away.")


async def wanting(store: MemoryStore, vch: str, number: int) -> ContainerSpec:
    """A container of *vch* with *number* layers of its own."""
    digests = [f"sha256:{builders.diff_id(f'{vch} {one}'.encode())[7:]}" for one in range(number)]
    layers = tuple(
        s.Layer(digest=digest, diff_id=digest, size_bytes=1, unpacked_bytes=1, media_type="") for digest in digests
    )
    container = replace(builders.container(layers=digests), vch=vch)
    image = s.Image(
        id=container.image.id,
        digest="",
        names=(),
        architecture="",
        os="linux",
        layers=layers,
        config=s.ImageConfig(),
        size_bytes=number,
        created_at=now(),
    )
    await store.apply(Transaction(ops=[put(keys.entity(vch, "images", image.id), image)]))
    return container


async def test_a_vch_that_wants_many_layers_leaves_room_for_another(tmp_path: Path) -> None:
    store, source, world = MemoryStore(), Hanging(), World()
    driver = MemorySubstrate(world).storage
    layers = Layers(store, driver, source, tmp_path / "staging", HostBook(store), "west", Failpoints(), Metrics())
    await layers.start(alone=True)
    flood, other = await wanting(store, "flood", 20), await wanting(store, "other", 1)
    flooding = asyncio.ensure_future(layers.bring(flood))
    async with source.came, asyncio.timeout(10):
        await source.came.wait_for(lambda: len(source.asked) == 2)
    waiting = asyncio.ensure_future(layers.bring(other))
    async with source.came, asyncio.timeout(10):
        await source.came.wait_for(lambda: len(source.asked) == 3)
    assert source.asked == ["flood", "flood", "other"]
    source.away.set()
    for task in (flooding, waiting):
        with pytest.raises(Unavailable):
            await task
    await layers.close()
    await store.close()
    world.close()
