"""More callers than the server takes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rest.hops import HAVING, reached
from rest.standins import World, sample

from portlayer.client import connect
from portlayer.model import errors as e
from portlayer.model import execution as em
from portlayer.model import storage as sm
from portlayer.model.bounds import HttpBounds
from portlayer.model.caller import Caller
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server, content

REQUESTS = 10
V = "/v1/vchs/default"


@pytest.fixture(params=HAVING)
async def server(request: pytest.FixtureRequest, world: World, tmp_path: Path) -> AsyncIterator[Server]:
    async with reached(world.components, request.param, tmp_path) as components:
        server = Server(components, bounds=HttpBounds(connections=3 * REQUESTS, requests=REQUESTS))
        await server.listen_unix(tmp_path / "s")
        yield server
        await server.drain(1)


@pytest.fixture
async def http(server: Server, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(tmp_path / "s"), limit=0)
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        yield session


class Held:
    """A method that answers when it is let to. begun: how often it was called."""

    def __init__(self, world: World, component: str, method: str, answer: type) -> None:
        self.begun = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()
        self._answer = answer
        world.behave(component, method, self)

    async def __call__(self, *_: Any) -> Any:
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return sample(self._answer)

    async def until(self, begun: int = 0, cancelled: int = 0) -> None:
        async with asyncio.timeout(20):
            while self.begun < begun or self.cancelled < cancelled:
                await asyncio.sleep(0.001)


async def status(http: aiohttp.ClientSession, path: str) -> tuple[int, str | None]:
    async with http.get(path) as response:
        await response.read()
        return response.status, response.headers.get("Retry-After")


async def test_no_vch_takes_all_requests_and_health_is_always_told(http: aiohttp.ClientSession, world: World) -> None:
    held = Held(world, "execution", "wait", em.Waited)
    waits = [asyncio.create_task(status(http, f"{V}/execution/containers/c/wait")) for _ in range(REQUESTS)]
    await held.until(begun=REQUESTS // 2)
    refused, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result() for task in refused} == {(503, "1")}
    other = f"{V}-other/execution/containers"
    waits += [asyncio.create_task(status(http, f"{other}/c/wait")) for _ in range(REQUESTS // 2)]
    await held.until(begun=REQUESTS)
    assert await status(http, "/v1/info") == (503, "1")
    for path in ("/healthz", "/readyz", "/metrics"):
        assert await status(http, path) != (503, "1")
    held.go_on.set()
    answers = await asyncio.gather(*waits)
    assert answers.count((200, None)) == REQUESTS
    assert (await status(http, "/v1/info"))[0] == 200


async def test_connections_that_idle_make_room_for_new_ones(server: Server, tmp_path: Path) -> None:
    idle = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(500)]
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(20):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert await idle[0][0].read() == b""
    for _, each in (*idle, (reader, writer)):
        each.close()


async def test_a_connection_that_waits_for_its_answer_is_not_cut(
    server: Server, http: aiohttp.ClientSession, world: World, tmp_path: Path
) -> None:
    held = Held(world, "execution", "wait", em.Waited)
    waiting = asyncio.create_task(status(http, f"{V}/execution/containers/c/wait"))
    await held.until(begun=1)
    idle = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(5 * REQUESTS)]
    async with asyncio.timeout(20):
        assert await idle[0][0].read() == b""
    held.go_on.set()
    assert await waiting == (200, None)
    for _, each in idle:
        each.close()


async def test_a_body_that_does_not_come_is_given_up(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "BODY_SECONDS", 0.01)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with http.post(f"{V}/execution/commit", data=never(), headers={"Content-Type": "application/json"}) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (408, "DeadlineExceeded")


@pytest.mark.parametrize("steps", [False, True])
async def test_a_caller_that_goes_away_takes_back_what_was_not_begun(
    http: aiohttp.ClientSession, world: World, steps: bool
) -> None:
    held = Held(world, "execution", "commit", em.Committed)
    body = {"steps": [{"call": "execution/commit", "handle": "h"}]} if steps else {"handle": "h"}
    path = f"{V}/execution/{'compose' if steps else 'commit'}"
    asking = asyncio.create_task(http.post(path, json=body))
    await held.until(begun=1)
    asking.cancel()
    await held.until(cancelled=1)


async def test_what_goes_on_without_its_caller_still_counts(http: aiohttp.ClientSession, world: World) -> None:
    held = Held(world, "storage", "delete_volume", sm.Nothing)
    asking = [asyncio.create_task(http.delete(f"{V}/storage/volumes/v")) for _ in range(REQUESTS // 2)]
    await held.until(begun=REQUESTS // 2)
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    assert await status(http, f"{V}/execution/containers") == (503, "1")
    held.go_on.set()
    async with asyncio.timeout(20):
        while await status(http, f"{V}/execution/containers") == (503, "1"):
            await asyncio.sleep(0.001)


class Refusing:
    """Refuses the first calls of a method."""

    def __init__(self, world: World, component: str, method: str, answer: type, **facts: Any) -> None:
        self.calls = 0
        self.refusals = 2
        self._answer, self._facts = answer, facts
        world.behave(component, method, self)

    async def __call__(self, *_: Any) -> Any:
        self.calls += 1
        if self.calls <= self.refusals:
            raise e.Unavailable("Not now.", **self._facts)
        return sample(self._answer)


async def test_the_client_comes_again_where_that_does_no_harm(server: Server, world: World, tmp_path: Path) -> None:
    committing = Refusing(world, "execution", "commit", em.Committed, retry_after_seconds=0.001)
    async with RestClient(f"unix://{tmp_path / 's'}", retries=2) as client:
        await client.execution.commit(Caller(), em.Commit(handle="h"))
        assert committing.calls == 3
        removing = Refusing(world, "execution", "delete_container", type(None), retry_after_seconds=0.001)
        with pytest.raises(e.Unavailable):
            await client.execution.delete_container(Caller(), em.DeleteContainer(ref="c"))
        assert removing.calls == 1
        removing = Refusing(world, "execution", "delete_container", type(None), retry_after_seconds=0.001, refused=True)
        await client.execution.delete_container(Caller(), em.DeleteContainer(ref="c"))
        assert removing.calls == 3
        listing = Refusing(world, "execution", "list_containers", em.Containers)
        with pytest.raises(e.Unavailable):
            await client.execution.list_containers(Caller(), em.ListContainers())
        assert listing.calls == 1


async def test_the_client_has_its_limits_and_can_be_told_not_to(server: Server, world: World, tmp_path: Path) -> None:
    listing = Refusing(world, "execution", "list_containers", em.Containers, retry_after_seconds=0.001)
    listing.refusals = 100
    for retries, calls in ((3, 4), (0, 5)):
        async with connect(host=f"unix://{tmp_path / 's'}", retries=retries) as pl:
            with pytest.raises(e.Unavailable):
                await pl.execution.list()
        assert listing.calls == calls
