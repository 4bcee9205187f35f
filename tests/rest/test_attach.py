"""Attach: the framing as the contract has it, and the same Attachment on both ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rest.standins import Dialogue, World

from portlayer.interfaces.interaction import Control, Output
from portlayer.model import errors as e
from portlayer.model import interaction as im
from portlayer.model.caller import Caller
from portlayer.rest import problems
from portlayer.rest.calls.interaction import ATTACH_PROTOCOL
from portlayer.rest.client import RestClient
from portlayer.rest.frames import MAX_FRAME
from portlayer.rest.server import Server
from portlayer.rest.server import attach as serving

PATH = "/v1/vchs/default/interaction/containers/c/attach"
EXIT = Control(kind="exit", fields={"exitCode": 3})


@pytest.fixture
def dialogue(world: World) -> Dialogue:
    dialogue = Dialogue()
    world.answer("interaction", "attach", dialogue)
    return dialogue


def control(message: aiohttp.WSMessage) -> dict[str, Any]:
    assert message.type is aiohttp.WSMsgType.BINARY
    assert message.data[0] == im.CONTROL
    fields: dict[str, Any] = json.loads(message.data[1:])
    return fields


@asynccontextmanager
async def between(there: Path, here: Path) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """A wire from the socket *here* to the one *there*; its ends, which can be cut."""
    ends: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = await asyncio.open_unix_connection(there)
        await asyncio.gather(carry(reader, beyond[1]), carry(beyond[0], writer))

    async with await asyncio.start_unix_server(meet, here):
        yield ends
        for end in ends:
            end.transport.abort()


async def test_both_ends_of_an_attachment_say_the_same(client: RestClient, world: World, dialogue: Dialogue) -> None:
    request = im.Attach(ref="c", stdin=True, stderr=False, logs=True, detach_keys="ctrl-p,ctrl-q", cursor="7")
    attachment = await client.interaction.attach(Caller(), request)
    await attachment.write(b"typed")
    await attachment.resize(80, 24)
    await attachment.close_stdin()
    assert [await dialogue.heard.get() for _ in range(3)] == [b"typed", (80, 24), "close"]

    for item in (Output(stream=im.STDOUT, data=b"\0\xff"), Output(stream=im.STDERR, data=b"x"), EXIT, None):
        dialogue.output.put_nowait(item)
    assert [item async for item in attachment] == [
        Output(stream=im.STDOUT, data=b"\0\xff"),
        Output(stream=im.STDERR, data=b"x"),
        EXIT,
    ]
    await asyncio.wait_for(dialogue.closed.wait(), 20)
    assert world.interaction.asked == [("attach", Caller(), request)]


async def test_frames_are_64_kib_at_most(http: aiohttp.ClientSession, client: RestClient, dialogue: Dialogue) -> None:
    for item in (Output(stream=im.STDOUT, data=b"x" * 200_000), EXIT, None):
        dialogue.output.put_nowait(item)
    async with http.ws_connect(PATH, protocols=(ATTACH_PROTOCOL,)) as socket:
        assert socket.protocol == ATTACH_PROTOCOL
        *frames, _exit = [message.data async for message in socket]
    assert max(map(len, frames)) == MAX_FRAME
    assert b"".join(frame[1:] for frame in frames) == b"x" * 200_000

    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c", stdin=True))
    await attachment.write(b"y" * 100_000)
    assert await dialogue.heard.get() + await dialogue.heard.get() == b"y" * 100_000
    await attachment.close()


async def test_what_was_still_said_is_told_where_nobody_listens_any_more(
    client: RestClient, dialogue: Dialogue
) -> None:
    """As where the one that is typed to has ended in another process."""
    dialogue.refusing = e.Unavailable("The attachment has ended; nothing more can be sent.")
    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c", stdin=True))
    await attachment.write(b"typed")
    await asyncio.wait_for(dialogue.refused.wait(), 20)
    for item in (Output(stream=im.STDOUT, data=b"last words"), EXIT, None):
        dialogue.output.put_nowait(item)
    assert [item async for item in attachment] == [Output(stream=im.STDOUT, data=b"last words"), EXIT]


async def test_closing_detaches(client: RestClient, dialogue: Dialogue) -> None:
    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c"))
    await attachment.close()
    await asyncio.wait_for(dialogue.closed.wait(), 20)
    with pytest.raises(e.Unavailable):
        await attachment.write(b"x")


@pytest.mark.parametrize(
    "error", [e.NotFound("None.", kind="container", id="c"), e.InvalidState("Not bound.", state="created")]
)
async def test_an_error_before_the_upgrade_is_a_plain_problem(
    client: RestClient, http: aiohttp.ClientSession, world: World, error: e.PortlayerError
) -> None:
    world.answer("interaction", "attach", error)
    with pytest.raises(type(error)) as caught:
        await client.interaction.attach(Caller(), im.Attach(ref="c"))
    assert caught.value.facts == error.facts
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await http.ws_connect(PATH)
    assert refused.value.status == problems.TABLE[type(error)][0]


async def test_what_is_no_websocket_is_told_so(http: aiohttp.ClientSession, dialogue: Dialogue) -> None:
    async with http.get(PATH) as response:
        assert (response.status, response.headers["Upgrade"]) == (426, "websocket")
        assert (await response.json())["code"] == "InvalidArgument"
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await http.ws_connect(PATH, protocols=("other.v1",))


@pytest.mark.parametrize(
    "frame",
    [
        "text",
        b"",
        b"\x01output",
        b"\x09",
        b"\x03not json",
        b'\x03{"type": "dance"}',
        b'\x03{"type": "resize", "width": "x", "height": 1}',
        b'\x03{"type": "resize", "width": 1, "height": 1, "depth": 1}',
        b"\x00" * (MAX_FRAME + 1),
    ],
    ids=lambda frame: str(frame[:20]),
)
async def test_what_is_not_of_the_protocol_gets_an_error_and_a_close(
    http: aiohttp.ClientSession, dialogue: Dialogue, frame: bytes | str
) -> None:
    async with http.ws_connect(f"{PATH}?stdin=true") as socket:
        await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
        fields = control(await socket.receive(5))
        assert (fields["type"], fields["problem"]["code"]) == ("error", "InvalidArgument")
        assert (await socket.receive(5)).type is aiohttp.WSMsgType.CLOSE
    await asyncio.wait_for(dialogue.closed.wait(), 20)


async def test_stdin_that_was_not_attached_is_refused(http: aiohttp.ClientSession, dialogue: Dialogue) -> None:
    async with http.ws_connect(PATH) as socket:
        await socket.send_bytes(b"\x00x")
        assert control(await socket.receive(5))["problem"]["code"] == "InvalidArgument"


async def test_a_connection_that_breaks_off_is_told_also_after_something_that_was_not_possible(
    server: Server, dialogue: Dialogue, tmp_path: Path
) -> None:
    dialogue.refusing = e.InvalidState("It does not run yet.", state="created")
    async with between(tmp_path / "s", tmp_path / "wire") as ends, RestClient(f"unix://{tmp_path / 'wire'}") as client:
        attachment = await client.interaction.attach(Caller(), im.Attach(ref="c"))
        await attachment.resize(1, 1)
        frames = aiter(attachment)
        await anext(frames)
        breaking = asyncio.ensure_future(anext(frames))
        for end in ends:
            end.transport.abort()
        with pytest.raises(e.Unavailable, match="broke off"):
            await asyncio.wait_for(breaking, 5)


async def test_an_error_of_the_component_arrives_as_an_error_frame(client: RestClient, dialogue: Dialogue) -> None:
    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c"))
    dialogue.output.put_nowait(e.SubstrateFailed("The log is gone.", step="read"))
    (frame,) = [item async for item in attachment]
    assert isinstance(frame, Control)
    assert (frame.kind, frame.fields["problem"]["code"]) == ("error", "SubstrateFailed")


async def test_the_exit_is_heard_even_when_nobody_reads_stdin_any_more(client: RestClient, dialogue: Dialogue) -> None:
    dialogue.refusing = e.InvalidState("It has ended.", state="stopped")
    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c", stdin=True))
    await attachment.write(b"too late")
    await attachment.write(b"later still, and not told again")
    await attachment.resize(1, 1)
    frames = aiter(attachment)
    for _ in ("write", "resize"):
        told = await anext(frames)
        assert isinstance(told, Control)
        assert told.fields["problem"]["code"] == "InvalidState"
    dialogue.output.put_nowait(EXIT)
    dialogue.output.put_nowait(None)
    assert [item async for item in frames] == [EXIT]


async def test_a_drain_tells_those_who_are_attached_from_where_to_go_on(
    client: RestClient, server: Server, dialogue: Dialogue
) -> None:
    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c"))
    dialogue.output.put_nowait(Output(stream=im.STDOUT, data=b"read before"))
    draining = asyncio.ensure_future(server.drain(5))
    output, frame = [item async for item in attachment]
    assert output == Output(stream=im.STDOUT, data=b"read before")
    assert isinstance(frame, Control)
    assert (frame.kind, frame.fields["problem"]["code"], frame.fields["cursor"]) == ("error", "Unavailable", "42")
    await draining
    assert dialogue.closed.is_set()


async def test_a_drain_does_not_wait_for_an_attachment_that_does_not_end(
    client: RestClient, server: Server, dialogue: Dialogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_CLOSE_SECONDS", 0.01)
    dialogue.detachable = False
    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c"))
    draining = asyncio.ensure_future(server.drain(5))
    (frame,) = [item async for item in attachment]
    assert isinstance(frame, Control)
    assert frame.fields["problem"]["code"] == "Unavailable"
    await draining


async def test_a_client_can_detach_and_knows_from_where_to_go_on(client: RestClient, dialogue: Dialogue) -> None:
    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c"))
    await attachment.detach()
    assert [item async for item in attachment] == [Control(kind="detached", fields={"cursor": "42"})]
    await asyncio.wait_for(dialogue.closed.wait(), 20)


async def test_an_attachment_that_breaks_off_is_not_taken_for_its_end(client: RestClient, dialogue: Dialogue) -> None:
    attachment = await client.interaction.attach(Caller(), im.Attach(ref="c"))
    dialogue.output.put_nowait(None)
    with pytest.raises(e.Unavailable):
        async for frame in attachment:  # the process in between tells of it, where there is one
            assert isinstance(frame, Control)
            raise problems.error_from(frame.fields["problem"])
