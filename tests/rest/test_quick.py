"""The short way in: whatever bytes come, in whatever pieces, the answers are those of the long way."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rest.standins import World

from portlayer.model import network as nm
from portlayer.rest.server import Server
from portlayer.rest.server.quick import Quick

LIST = b"GET /v1/vchs/default/network/networks HTTP/1.1\r\nHost: x\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
INSPECT = (
    b"POST /v1/vchs/default/execution/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n" + b'{"handle": "hh"}'
)
DOCS = b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def networks(world: World) -> None:
    world.answer("network", "list_networks", nm.Networks(networks=(), next=None))


@contextlib.asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(directory / "s")
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), headers, await reader.readexactly(int(headers.get("content-length", "0")))


class Held:
    """Networks are listed when they may be."""

    def __init__(self, world: World) -> None:
        self.begun, self.go, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        world.behave("network", "list_networks", self._list)

    async def _list(self, *_: object) -> nm.Networks:
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return nm.Networks(networks=(), next=None)


def quick(server: Server) -> set[Quick]:
    """The connections that have not been handed over."""
    return server._connections._quick


async def test_what_comes_whole_stays_on_the_short_way(server: Server, tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer):
        for asked in (LIST, HEALTH, LIST):
            writer.write(asked)
            status, headers, _ = await answer(reader)
            assert status == 200
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
            assert headers["x-request-id"]
        assert len(quick(server)) == 1
    async with asyncio.timeout(5):
        while quick(server):
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (LIST.replace(b"/network/networks", b"/nowhere"), 404),
        (LIST.replace(b"GET", b"DELETE"), 405),
        (LIST.replace(b"GET", b"OPTIONS"), 405),
        (LIST.replace(b"HTTP/1.1", b"HTTP/3.1"), 400),
        (LIST.replace(b"Host: x", b"Host : x"), 400),
        (LIST.replace(b"networks", b"net\xffworks"), 400),
        (LIST.replace(b"Host: x", b"Host: x\r\nContent-Length: 1\r\nContent-Length: 2"), 400),
        (LIST.replace(b"Host: x", b"Host: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked"), 400),
        (INSPECT.replace(b"Host: x", b"Host: x\r\ncontent-length: 16"), 400),
        (LIST.replace(b"Host: x", b"Host: x\r\nContent-Length: +0"), 400),
        (LIST.replace(b"Host: x", b"Host: x\r\n folded"), 400),
        (LIST.replace(b"\r\n", b"\n"), 400),
        (INSPECT.replace(b"Host: x", b"Host: x\r\nContent-Encoding: gzip"), 415),
        (INSPECT.replace(b'"hh"}', b'"hh",'), 400),
    ],
)
async def test_what_is_not_right_is_told_so(server: Server, tmp_path: Path, asked: bytes, status: int) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write(asked)
        found, headers, _ = await answer(reader)
        assert (found, headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("asked", [LIST, INSPECT, HEALTH, DOCS])
async def test_a_request_may_come_in_any_pieces(server: Server, tmp_path: Path, asked: bytes) -> None:
    async with connected(tmp_path) as (reader, writer):
        for piece in (asked[:20], asked[20:-1], asked[-1:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        assert (await answer(reader))[0] == 200
        writer.write(asked)
        assert (await answer(reader))[0] == 200


@pytest.mark.parametrize("count", [2, 7])
async def test_requests_sent_at_once_are_answered_in_their_order(server: Server, tmp_path: Path, count: int) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write((LIST + HEALTH) * count)
        kinds = [(await answer(reader))[1]["content-type"].partition(";")[0] for _ in range(2 * count)]
        assert kinds == ["application/json", "text/plain"] * count


async def test_a_request_that_comes_while_one_is_answered_waits(server: Server, world: World, tmp_path: Path) -> None:
    going = Held(world)
    async with connected(tmp_path) as (reader, writer):
        writer.write(LIST)
        await going.begun.wait()
        writer.write(HEALTH)
        await asyncio.sleep(0.01)
        going.go.set()
        assert (await answer(reader))[1]["content-type"] == "application/json"
        assert (await answer(reader))[2] == b"ok\n"


async def test_who_goes_away_is_not_waited_for(server: Server, world: World, tmp_path: Path) -> None:
    going = Held(world)
    async with connected(tmp_path) as (_, writer):
        writer.write(LIST)
        await going.begun.wait()
    async with asyncio.timeout(5):
        await going.cancelled.wait()


async def test_a_connection_that_asks_for_its_end_gets_it(server: Server, tmp_path: Path) -> None:
    async with connected(tmp_path) as (reader, writer):
        writer.write(LIST.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert (await answer(reader))[1]["connection"] == "close"
        assert await reader.read() == b""


async def test_a_drain_answers_what_is_under_way_and_closes_what_is_not(
    server: Server, world: World, tmp_path: Path
) -> None:
    going = Held(world)
    async with connected(tmp_path) as (busy, asking), connected(tmp_path) as (idle, waiting):
        waiting.write(HEALTH)
        await answer(idle)
        asking.write(LIST)
        await going.begun.wait()
        draining = asyncio.ensure_future(server.drain(5))
        assert await asyncio.wait_for(idle.read(), 5) == b""
        going.go.set()
        assert (await answer(busy))[1]["connection"] == "close"
        await draining


@pytest.mark.parametrize("turns", range(4))
async def test_who_comes_just_as_a_drain_ends_is_not_left_waiting(world: World, tmp_path: Path, turns: int) -> None:
    """Whichever turn of the event loop the server closes in: that of the accept(2), or one about it."""
    server = Server(world.components)
    await server.listen_unix(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as coming:
        coming.setblocking(False)
        coming.connect(str(tmp_path / "s"))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await server.drain(0)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(coming, 1) == b""


async def test_who_does_not_read_is_not_answered_any_more(server: Server, world: World, tmp_path: Path) -> None:
    """Also where more requests had come before that was seen."""
    answered = 0
    begun, go = asyncio.Event(), asyncio.Event()

    async def listed(*_: object) -> nm.Networks:
        nonlocal answered
        begun.set()
        await go.wait()
        answered += 1
        return nm.Networks(networks=(), next="x" * 2_000_000)

    world.behave("network", "list_networks", listed)
    async with connected(tmp_path) as (reader, writer), connected(tmp_path) as (reader2, writer2):
        writer.write(LIST)
        await begun.wait()
        writer.write(LIST * 20)
        for _ in range(2):
            writer2.write(HEALTH)
            await answer(reader2)
        go.set()
        for _ in range(50):
            writer2.write(HEALTH)
            await answer(reader2)
        assert answered == 1
        for _ in range(21):
            assert (await answer(reader))[0] == 200
        assert answered == 21
