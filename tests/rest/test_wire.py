"""Whole calls over a unix socket: when a connection is used again, and what is made of answers that are none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from portlayer.rest.client.wire import Answer, Garbled, Lost, Unreached, Wire

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, *headers: str) -> bytes:
    head = ["HTTP/1.1 200 OK", "Content-Type: Text/Plain; charset=utf-8", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


class Server:
    """Answers each request by *respond*, which may write whatever it likes. connections: how many there were."""

    def __init__(self, respond: Serve) -> None:
        self._respond = respond
        self.connections = 0
        self.requests: list[bytes] = []
        self.serving: list[asyncio.Task[None]] = []

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.serving.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                await self._respond(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def served(path: Path, respond: Serve) -> AsyncIterator[tuple[Server, Wire]]:
    server, wire = Server(respond), Wire(str(path / "s"))
    async with await asyncio.start_unix_server(server.serve, path / "s"):
        yield server, wire
        wire.close()
        await asyncio.gather(*server.serving)


async def ask(wire: Wire, body: bytes | None = None) -> Answer:
    return await asyncio.wait_for(wire.ask("POST", "/x?y=1", {"A": "b"}, body), 20)


async def test_calls_one_by_one_use_one_connection_and_those_at_once_one_each(tmp_path: Path) -> None:
    there, all_there = 0, asyncio.Event()

    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal there
        there += 1
        if there == 5:
            all_there.set()
        if there > 2:
            await all_there.wait()
        writer.write(answer(b"one"))

    async with served(tmp_path, respond) as (server, wire):
        for _ in range(2):
            assert await ask(wire) == (200, "text/plain", b"one")
        assert server.connections == 1
        assert server.requests[0] == b"POST /x?y=1 HTTP/1.1\r\nHost: localhost\r\nA: b\r\n\r\n"
        await asyncio.gather(*(ask(wire) for _ in range(3)))
        assert server.connections == 3


async def test_connections_that_no_call_needs_any_more_are_closed(tmp_path: Path) -> None:
    all_there = asyncio.Barrier(4)

    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) <= 4:
            await all_there.wait()
        writer.write(answer(b"one"))

    async with served(tmp_path, respond) as (server, wire):
        await asyncio.gather(*(ask(wire) for _ in range(4)))
        for line in list(wire._idle)[:-1]:
            line.idle_since -= 60
        await ask(wire)
        async with asyncio.timeout(20):
            while len(wire._open) > 1:
                await asyncio.sleep(0.001)
        assert server.connections == 4


async def test_an_answer_may_come_in_any_pieces(tmp_path: Path) -> None:
    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in answer(b"many\r\n\r\npieces"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with served(tmp_path, respond) as (server, wire):
        for _ in range(2):
            assert (await ask(wire)).body == b"many\r\n\r\npieces"
        assert server.connections == 1


async def test_a_connection_that_the_server_closes_is_not_used_again(tmp_path: Path) -> None:
    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"last", "Connection: close"))

    async with served(tmp_path, respond) as (server, wire):
        for _ in range(3):
            assert (await ask(wire)).body == b"last"
        assert server.connections == 3

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"gone"))
        writer.close()

    async with served(tmp_path, close) as (server, wire):
        assert (await ask(wire)).body == b"gone"
        async with asyncio.timeout(20):
            while wire._open:
                await asyncio.sleep(0.001)
        assert (await ask(wire)).body == b"gone"
        assert server.connections == 2


async def test_who_gives_up_takes_no_answer_of_another_call(tmp_path: Path) -> None:
    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 1:
            asked.set()
            await given_up.wait()
        writer.write(answer(str(len(server.requests)).encode()))

    asked, given_up = asyncio.Event(), asyncio.Event()
    async with served(tmp_path, respond) as (server, wire):
        first = asyncio.ensure_future(ask(wire))
        await asked.wait()
        first.cancel()
        assert (await ask(wire)).body == b"2"
        given_up.set()
        assert (await ask(wire)).body == b"3"
        assert server.connections == 2


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", Lost),
        (answer(b"half")[:-2], Lost),
        (b"HTTP/1.1 200 OK\r\n\r\nwithout a length", Garbled),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", Garbled),
        (b"hello\r\n\r\n", Garbled),
        (b"x" * 70_000, Garbled),
    ],
    ids=["nothing", "half", "no length", "no number", "no status", "no end"],
)
async def test_what_is_no_whole_answer_is_an_error(tmp_path: Path, sent: bytes, error: type[Exception]) -> None:
    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)
        writer.close()

    async with served(tmp_path, respond) as (_, wire):
        with pytest.raises(error):
            await ask(wire)


async def test_where_nobody_listens_nothing_was_sent(tmp_path: Path) -> None:
    with pytest.raises(Unreached, match="No such file"):
        await ask(Wire(str(tmp_path / "nowhere")))
