"""Sockets and the orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
import stat
from pathlib import Path

import aiohttp
import pytest
import tlslab
from rest.known import Everyone
from rest.standins import World, sample

from portlayer.model import errors as e
from portlayer.model import execution as em
from portlayer.model import storage as sm
from portlayer.model.caller import Caller
from portlayer.model.network import CreateNetwork
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def test_the_socket_is_private_and_goes_with_the_server(world: World, tmp_path: Path) -> None:
    server = Server(world.components)
    await server.listen_unix(tmp_path / "s")
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["s"]
    await server.drain(5)
    assert names_in(tmp_path) == []


async def test_a_dead_socket_is_replaced_and_a_live_one_is_not(world: World, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    first, second = Server(world.components), Server(world.components)
    await first.listen_unix(path)
    with pytest.raises(e.InUse) as caught:
        await second.listen_unix(path)
    assert caught.value.facts == {"kind": "socket", "id": str(path)}
    async with RestClient(f"unix://{path}") as client:
        await client.service.info(Caller(), sm.Nothing())
    await first.drain(5)
    await second.drain(5)


async def test_a_path_that_cannot_be_a_socket_is_refused(world: World, tmp_path: Path) -> None:
    server = Server(world.components)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / ("x" * 200), tmp_path / "none" / "s"):
        with pytest.raises(e.InvalidArgument):
            await server.listen_unix(path)
    assert names_in(tmp_path) == ["file"]


async def test_a_server_listens_on_several_sockets(world: World, tmp_path: Path) -> None:
    server = Server(world.components, peers=Everyone())
    await server.listen_unix(tmp_path / "s")
    ports = [await server.listen_tls("127.0.0.1", 0, tlslab.serving()) for _ in range(2)]
    for address in (f"unix://{tmp_path / 's'}", *(f"https://127.0.0.1:{port}" for port in ports)):
        async with RestClient(address, tlslab.calling()) as client:
            assert await client.service.info(Caller(), sm.Nothing())
    await server.drain(5)


async def test_a_drain_waits_for_what_is_being_changed(world: World, server: Server, client: RestClient) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def commit(*_: object) -> em.Committed:
        began.set()
        await go_on.wait()
        return sample(em.Committed)  # type: ignore[no-any-return]

    world.behave("execution", "commit", commit)
    committing = asyncio.ensure_future(client.execution.commit(Caller(), em.Commit(handle="h")))
    await began.wait()
    draining = asyncio.ensure_future(server.drain(5))
    await asyncio.sleep(0)
    go_on.set()
    assert await committing == sample(em.Committed)
    await draining


async def test_what_is_read_while_the_server_stops_is_not_begun(world: World, server: Server, tmp_path: Path) -> None:
    """A request whose body comes after the drain has begun is refused: nobody would wait for it."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*_: object) -> em.Committed:
        began.set()
        await go_on.wait()
        return sample(em.Committed)  # type: ignore[no-any-return]

    world.behave("execution", "commit", slow)
    body = b'{"handle":"h"}'
    asked = b"POST /v1/vchs/default/execution/commit HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    _, other = await asyncio.open_unix_connection(tmp_path / "s")
    other.write(asked + body)
    await began.wait()
    writer.write(asked + body[:-1])
    await writer.drain()
    async with RestClient(f"unix://{tmp_path / 's'}") as client:
        await client.service.info(Caller(), sm.Nothing())  # what was written before has been read by now
        draining = asyncio.ensure_future(server.drain(5))
        with pytest.raises(e.Unavailable):
            await client.service.info(Caller(), sm.Nothing())
    writer.write(body[-1:])
    assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
    go_on.set()
    await draining
    for one in (writer, other):
        one.close()
        await one.wait_closed()


async def test_a_drain_is_bounded(world: World, server: Server, client: RestClient) -> None:
    began = asyncio.Event()

    async def never(*_: object) -> None:
        began.set()
        await asyncio.Event().wait()

    world.behave("interaction", "output", never)
    world.behave("execution", "commit", never)
    committing = asyncio.ensure_future(client.execution.commit(Caller(), em.Commit(handle="h")))
    await began.wait()
    await asyncio.wait_for(server.drain(0.01), 10)
    with pytest.raises(e.Unavailable):
        await committing


async def test_a_client_without_a_server_says_how_to_get_one(tmp_path: Path) -> None:
    async with RestClient(f"unix://{tmp_path / 's'}") as client:
        with pytest.raises(e.Unavailable, match="portlayer serve"):
            await client.execution.create(Caller(), em.Create(image="x"))
    with pytest.raises(e.InvalidArgument):
        RestClient("tcp://somewhere")


async def test_a_client_survives_a_restart_of_its_server(world: World, tmp_path: Path) -> None:
    async with RestClient(f"unix://{tmp_path / 's'}") as client:
        for _ in range(2):
            server = Server(world.components)
            await server.listen_unix(tmp_path / "s")
            await client.execution.set_state(Caller(), em.SetState(handle="h", state="running"))
            await server.drain(5)


async def test_a_handle_call_whose_answer_was_lost_is_sent_again(tmp_path: Path) -> None:
    requests: list[bytes] = []

    async def flaky(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        if len(requests) == 2:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n"
                b'Connection: close\r\n\r\n{"handle":"b"}'
            )
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(flaky, tmp_path / "s"), RestClient(f"unix://{tmp_path / 's'}") as client:
        again = await client.execution.rename(Caller(), em.Rename(handle="a", name="n"))
        assert again == sm.HandleAnswer(handle="b")
        with pytest.raises(e.Unavailable):
            await client.network.create_network(Caller(), CreateNetwork(name="n"))
    assert len(requests) == 3


async def test_requests_are_logged_at_debug_only(http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await http.get("/healthz")
    assert caplog.records == []
    caplog.set_level(logging.DEBUG, "portlayer.rest")
    await http.get("/healthz")
    (record,) = [record for record in caplog.records if record.name.startswith("portlayer")]
    assert (vars(record)["method"], vars(record)["target"], vars(record)["status"]) == ("GET", "/healthz", 200)
