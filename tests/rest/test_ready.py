"""What `/readyz` says, asked as a balancer does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness import Harness, harness_over

from portlayer.interfaces.store import Store
from portlayer.model.errors import SubstrateFailed
from portlayer.rest.server import Server
from portlayer.stores.memory import MemoryStore
from portlayer.substrates.memory.world import Step

Ready = tuple[int, dict[str, Any]]


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    store = MemoryStore()

    async def open_store() -> Store:
        return store

    async with harness_over(open_store, tmp_path) as harness:
        yield harness


@pytest.fixture
async def http(harness: Harness, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    server = Server(harness.pl)
    await server.listen_unix(tmp_path / "s")
    async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(str(tmp_path / "s"))) as http:
        yield http
    await server.drain(5)


async def ready(http: aiohttp.ClientSession) -> Ready:
    async with http.get("/readyz") as response:
        return response.status, await response.json()


ALL_WELL = {"store": "ok", "substrate": "ok", "commits": "ok"}


async def test_a_stuck_commit_is_told_and_takes_the_server_from_nobody(
    harness: Harness, http: aiohttp.ClientSession
) -> None:
    assert await ready(http) == (200, {"ready": True, "checks": ALL_WELL})

    def refuse(now: Step) -> None:
        if now.name == "execution.remove":
            raise SubstrateFailed("cannot be killed")

    relent = harness.world.before(refuse)
    harness.world.fail("execution.prepare", SubstrateFailed("no"))
    with pytest.raises(SubstrateFailed):
        await harness.run("sleep", "1000", name="cookie")
    told = "1 can neither be finished nor undone yet; see the log"
    assert await ready(http) == (200, {"ready": True, "checks": {**ALL_WELL, "commits": told}})
    relent()
    async with asyncio.timeout(20):
        while (await ready(http))[1]["checks"]["commits"] != "ok":
            await asyncio.sleep(0.01)
    assert (await harness.run("sleep", "1000", name="cookie")).state == "running"


async def test_a_substrate_that_does_not_answer(harness: Harness, http: aiohttp.ClientSession) -> None:
    harness.world.fail("execution.present", SubstrateFailed("The host is on fire."))
    checks = {**ALL_WELL, "substrate": "The host is on fire."}
    assert await ready(http) == (503, {"ready": False, "checks": checks})
    assert await ready(http) == (200, {"ready": True, "checks": ALL_WELL})


async def test_a_store_that_does_not_answer(harness: Harness, http: aiohttp.ClientSession) -> None:
    await harness.store.close()
    status, said = await ready(http)
    assert (status, said["ready"]) == (503, False)
    assert said["checks"].keys() == {"store", "substrate"}
    assert said["checks"]["store"] != "ok"
