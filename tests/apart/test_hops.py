"""From the process that was asked to the one that answers is one hop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from apart.cluster import opened
from apart.test_topologies import ARCHIVE, furnish

from portlayer.client import PortLayer, Steps
from portlayer.model.errors import Unavailable
from portlayer.rest.client import RestClient


async def attach(pl: PortLayer) -> None:
    async with pl.interaction.attach("one"):
        pass


async def read(pl: PortLayer) -> None:
    assert [chunk async for chunk in pl.interaction.logs("one")] == []


CALLS: dict[str, Callable[[PortLayer], Awaitable[Any]]] = {
    "a call of storage": lambda pl: pl.storage.list_volumes(),
    "a call of execution": lambda pl: pl.execution.list(),
    "a call of network": lambda pl: pl.network.list(),
    "a body that streams in": lambda pl: pl.storage.import_image(ARCHIVE),
    "one that streams out": read,
    "an upgraded stream": attach,
}


@pytest.mark.parametrize("name", CALLS)
async def test_what_was_passed_on_is_not_passed_on_again(tmp_path: Path, name: str) -> None:
    """The door has no component: it passes on what callers ask, and refuses what a process has passed on."""
    ask = CALLS[name]
    async with opened("each apart", tmp_path) as cluster:
        async with cluster.at() as pl:
            await furnish(pl)
            await pl.execution.commit(Steps().create("busybox", name="one").join_interaction().bind_interaction())
            await ask(pl)
        passport = cluster.process("storage").passport
        async with RestClient(cluster.address("door"), passport=passport, name="door") as client:
            with pytest.raises(Unavailable, match="has just moved; come again") as refused:
                await ask(PortLayer(client.components))
        assert refused.value.facts["refused"]
