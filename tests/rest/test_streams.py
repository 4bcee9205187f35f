"""Bytes that flow: output, logs, stdin, events, imports. Nothing is buffered whole, and a cut is never an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from rest.standins import World, flow, sample

from portlayer.model import errors as e
from portlayer.model import interaction as im
from portlayer.model import service as svc
from portlayer.model import storage as sm
from portlayer.model.caller import Caller
from portlayer.model.events import Event, NumberedEvent
from portlayer.model.execution import Wait
from portlayer.rest.calls.interaction import FRAMES
from portlayer.rest.calls.storage import PROGRESS
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server
from portlayer.rest.server import service as rest_service

V = "/v1/vchs/default"
REF = im.Streams(ref="c")
EVENT = Event(type="container.started", kind="container", id="1", name="c", time="t", attributes={"a": "ä\n"})


async def all_of(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


@pytest.mark.parametrize("number", [im.STDOUT, im.STDERR])
async def test_output_flows_as_it_is_written(client: RestClient, world: World, number: int) -> None:
    pipe: asyncio.Queue[bytes] = asyncio.Queue()

    async def output(_caller: Caller, _request: Any, stream: int) -> AsyncIterator[bytes]:
        return flow_of(pipe, stream)

    async def flow_of(pipe: asyncio.Queue[bytes], stream: int) -> AsyncIterator[bytes]:
        yield bytes([stream])
        while piece := await pipe.get():
            yield piece

    world.behave("interaction", "output", output)
    stream = await client.interaction.output(Caller(), REF, number)
    assert await anext(stream) == bytes([number])
    for piece in (b"one", b"\xff\0two"):
        pipe.put_nowait(piece)
        assert await anext(stream) == piece
    pipe.put_nowait(b"")
    assert await all_of(stream) == []


async def test_an_output_that_breaks_off_is_not_taken_for_its_end(client: RestClient, world: World) -> None:
    world.answer("interaction", "output", flow(b"half", e.SubstrateFailed("The log is gone.")))
    stream = await client.interaction.output(Caller(), REF, im.STDOUT)
    with pytest.raises(e.Unavailable) as told:
        await all_of(stream)
    assert told.value.facts["retry_after_seconds"]


async def test_closing_a_stream_ends_it_at_the_component(client: RestClient, world: World) -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.Event().wait()
        finally:
            ended.set()

    world.answer("interaction", "output", endless())
    stream: Any = await client.interaction.output(Caller(), REF, im.STDOUT)
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(ended.wait(), 20)


CHUNKS = (
    im.Chunk(stream=im.STDOUT, data=b"one\ntw", time=1_000_000_001, cursor=6),
    im.Chunk(stream=im.STDERR, data=b"bad\n", time=2_000_000_000, cursor=10),
    im.Chunk(stream=im.STDOUT, data=b"o\n", time=3_000_000_000, cursor=12),
)


async def test_logs_arrive_as_chunks(client: RestClient, world: World) -> None:
    request = im.Logs(ref="c", follow=True, tail=0, timestamps=True, stderr=False)
    world.answer("interaction", "logs", flow(*CHUNKS))
    assert tuple(await all_of(await client.interaction.logs(Caller(), request))) == CHUNKS
    assert world.interaction.asked[0][2] == request


async def test_a_failure_in_the_middle_of_logs_keeps_its_class(client: RestClient, world: World) -> None:
    world.answer("interaction", "logs", flow(*CHUNKS, e.SubstrateFailed("Gone.", step="read")))
    stream = await client.interaction.logs(Caller(), im.Logs(ref="c"))
    with pytest.raises(e.SubstrateFailed) as caught:
        await all_of(stream)
    assert caught.value.facts == {"step": "read"}


async def test_logs_are_plain_bytes_unless_frames_are_asked_for(http: aiohttp.ClientSession, world: World) -> None:
    world.behave("interaction", "logs", lambda *_: answered(flow(*CHUNKS)))
    async with http.get(f"{V}/interaction/containers/c/logs") as response:
        assert (response.content_type, await response.read()) == ("text/plain", b"one\ntwbad\no\n")
    async with http.get(f"{V}/interaction/containers/c/logs?timestamps=true") as response:
        assert await response.read() == (
            b"1970-01-01T00:00:01.000000001Z one\n1970-01-01T00:00:01.000000001Z tw"
            b"1970-01-01T00:00:02.000000000Z bad\no\n"
        )
    async with http.get(f"{V}/interaction/containers/c/logs", headers={"Accept": FRAMES}) as response:
        assert (await response.read())[:5] == b"\x01\0\0\0\x06"


async def answered(value: Any) -> Any:
    return value


async def test_stdin_flows_in_as_it_is_sent(client: RestClient, world: World) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()
    more = asyncio.Event()

    async def write(_caller: Caller, _request: Any, body: AsyncIterator[bytes]) -> None:
        async for piece in body:
            got.put_nowait(piece)

    async def typed() -> AsyncIterator[bytes]:
        yield b"one"
        await more.wait()
        yield b"two"

    world.behave("interaction", "write_stdin", write)
    writing = asyncio.ensure_future(client.interaction.write_stdin(Caller(), REF, typed()))
    assert await got.get() == b"one"
    more.set()
    assert await got.get() == b"two"
    await writing


LARGE, PIECE, MUCH = 48 << 20, bytes(64 << 10), 24 << 20  # the kernel itself takes up to 10 MB of TCP


async def still(count: Callable[[], int]) -> int:
    """What *count* comes to, once it does not grow any more."""
    seen, turns = count(), 0
    while turns < 500:
        await asyncio.sleep(0)
        turns = turns + 1 if count() == seen else 0
        seen = count()
    return seen


async def test_what_is_sent_waits_for_who_takes_it(client: RestClient, world: World) -> None:
    """Through a hop, too: what is on its way is little, whatever the body's size."""
    sent = waiting = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < LARGE:
            sent += len(PIECE)
            yield PIECE

    async def importing(_caller: Caller, _request: Any, body: AsyncIterator[bytes], *_: Any) -> sm.Images:
        nonlocal waiting
        first = len(await anext(body))
        waiting = await still(lambda: sent)
        assert first + sum([len(piece) async for piece in body]) == LARGE
        return IMAGES

    world.behave("storage", "import_image", importing)
    await client.storage.import_image(Caller(), sm.ImportImage(), body())
    assert 0 < waiting < MUCH


async def test_what_is_said_waits_for_who_reads_it(client: RestClient, world: World) -> None:
    said = 0

    async def output() -> AsyncIterator[bytes]:
        nonlocal said
        while said < LARGE:
            said += len(PIECE)
            yield PIECE

    world.answer("interaction", "output", output())
    stream = await client.interaction.output(Caller(), REF, im.STDOUT)
    first = len(await anext(stream))
    assert 0 < await still(lambda: said) < MUCH
    assert first + sum([len(piece) async for piece in stream]) == LARGE


async def test_a_wait_ends_when_its_caller_goes(client: RestClient, world: World) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    world.behave("execution", "wait", wait)
    waiting = asyncio.ensure_future(client.execution.wait(Caller(), Wait(ref="c")))
    await began.wait()
    waiting.cancel()
    await asyncio.wait_for(cancelled.wait(), 20)


async def test_a_commit_is_finished_when_its_caller_goes(client: RestClient, world: World) -> None:
    began, go_on, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def delete(*_: Any) -> None:
        began.set()
        await go_on.wait()
        finished.set()

    world.behave("network", "delete_network", delete)
    deleting = asyncio.ensure_future(client.network.delete_network(Caller(), svc.VchRef(ref="n")))  # type: ignore[arg-type]
    await began.wait()
    deleting.cancel()
    await asyncio.gather(deleting, return_exceptions=True)
    await client.close()
    go_on.set()
    await asyncio.wait_for(finished.wait(), 20)


async def test_events_carry_their_cursor(http: aiohttp.ClientSession, client: RestClient, world: World) -> None:
    numbered = [NumberedEvent(cursor=cursor, event=EVENT) for cursor in ("7.1", "7")]
    world.behave("service", "events", lambda *_: answered(flow(*numbered)))
    stream = await client.service.events(Caller(), svc.Subscribe(since="7.0"))
    assert [await anext(stream), await anext(stream)] == numbered
    with pytest.raises(e.Unavailable):
        await anext(stream)
    async with http.get(f"{V}/events?since=0", headers={"Last-Event-ID": "7.0"}) as response:
        assert response.content_type == "text/event-stream"
        text = (await response.read()).decode()
    assert "cursor: 7.1\nevent: container.started\ndata: {" in text
    assert "id: 7\nevent: container.started\ndata: {" in text, "an id is a revision"
    assert [request for _, _, request in world.service.asked] == [svc.Subscribe(since="7.0")] * 2


async def test_quiet_events_are_kept_alive_and_end_with_the_server(
    http: aiohttp.ClientSession, world: World, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> AsyncIterator[NumberedEvent]:
        await asyncio.Event().wait()
        yield NumberedEvent(cursor="", event=EVENT)

    monkeypatch.setattr(rest_service, "KEEP_ALIVE_SECONDS", 0.01)
    world.answer("service", "events", never())
    async with http.get(f"{V}/events") as response:
        while b"still here" not in await response.content.readline():
            pass
        await asyncio.wait_for(server.drain(60), 20)
        await response.content.read()


async def test_a_cursor_that_is_none_is_refused_before_the_stream(client: RestClient, world: World) -> None:
    world.answer("service", "events", e.InvalidArgument("No cursor.", pointer="?since"))
    with pytest.raises(e.InvalidArgument):
        await client.service.events(Caller(), svc.Subscribe(since="x"))


async def test_small_values_are_raw_and_have_etags(
    http: aiohttp.ClientSession, client: RestClient, world: World
) -> None:
    entry = svc.KvEntry(key="a/b", value=b"\0\xff", etag="12")
    for method in ("get_kv", "put_kv"):
        world.answer("service", method, entry)
    put = svc.PutKv(key="a/b", value=entry.value, if_match="11")
    assert await client.service.put_kv(Caller(), put) == entry
    assert await client.service.get_kv(Caller(), svc.KvRef(key="a/b")) == entry
    assert world.service.asked[0][2] == put
    async with http.get(f"{V}/kv/a%2Fb") as response:
        assert (response.headers["ETag"], await response.read()) == ('"12"', entry.value)


async def test_readiness_is_an_answer_even_when_it_is_not(
    http: aiohttp.ClientSession, client: RestClient, world: World
) -> None:
    unready = svc.Readiness(ready=False, checks={"store": "down"})
    world.answer("service", "ready", unready)
    assert await client.service.ready(Caller(), sm.Nothing()) == unready
    async with http.get("/readyz") as response:
        assert response.status == 503
    async with http.get("/healthz") as response:
        assert response.status == 200


IMAGES = sm.Images(images=(), next=None)


async def test_an_import_streams_in_and_tells_its_progress(client: RestClient, world: World) -> None:
    first, last = sm.Progress(status="unpacking", id="l1", done=1, total=9), sm.Progress(status="done", id="l2")
    seen: asyncio.Queue[sm.Progress] = asyncio.Queue()

    async def importing(_caller: Caller, _request: Any, body: AsyncIterator[bytes], report: Any) -> sm.Images:
        assert await anext(body) == b"tar"
        report(first)
        assert [piece async for piece in body] == [b"rest"]
        await asyncio.to_thread(report, last)
        return IMAGES

    async def archive() -> AsyncIterator[bytes]:
        yield b"tar"
        assert await seen.get() == first
        yield b"rest"

    world.behave("storage", "import_image", importing)
    request = sm.ImportImage(name="busybox", format="rootfs")
    assert await client.storage.import_image(Caller(), request, archive(), seen.put_nowait) == IMAGES
    assert await seen.get() == last
    assert world.storage.asked[0][2] == request


@pytest.mark.parametrize("report", [None, lambda _: None], ids=["plain", "progress"])
async def test_an_import_that_fails_raises_its_error(client: RestClient, world: World, report: Any) -> None:
    world.answer("storage", "import_image", e.InvalidArgument("It is truncated."))
    with pytest.raises(e.InvalidArgument, match="truncated"):
        await client.storage.import_image(Caller(), sm.ImportImage(), flow(b"x" * 1000), report)


async def test_an_import_that_fails_after_some_progress_raises_its_error(client: RestClient, world: World) -> None:
    told = asyncio.Event()

    async def importing(_caller: Caller, _request: Any, _body: Any, report: Any) -> sm.Images:
        report(sm.Progress(status="unpacking"))
        await told.wait()
        raise e.ResourceExhausted("Out of disk.", resource="disk")

    world.behave("storage", "import_image", importing)
    with pytest.raises(e.ResourceExhausted):
        await client.storage.import_image(Caller(), sm.ImportImage(), flow(b"x"), lambda _: told.set())


async def test_an_import_whose_source_fails_raises_what_the_source_raised(client: RestClient, world: World) -> None:
    async def importing(_caller: Caller, _request: Any, body: AsyncIterator[bytes], *_: Any) -> sm.Images:
        async for _ in body:
            pass
        return IMAGES

    world.behave("storage", "import_image", importing)
    with pytest.raises(FileNotFoundError):
        await client.storage.import_image(Caller(), sm.ImportImage(), flow(b"x", FileNotFoundError("archive")))


async def test_an_upload_that_breaks_off_is_an_error_of_the_taxonomy_at_the_component(
    client: RestClient, world: World
) -> None:
    caught: asyncio.Queue[Exception] = asyncio.Queue()
    reading = asyncio.Event()

    async def read(body: AsyncIterator[bytes]) -> sm.Images:
        try:
            async for _ in body:
                reading.set()
        except e.PortlayerError as error:
            caught.put_nowait(error)
            raise
        return IMAGES

    async def importing(_caller: Caller, _request: Any, body: AsyncIterator[bytes], *_: Any) -> sm.Images:
        return await asyncio.shield(asyncio.ensure_future(read(body)))  # what has begun is the component's own matter

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    world.behave("storage", "import_image", importing)
    upload = asyncio.ensure_future(client.storage.import_image(Caller(), sm.ImportImage(), stuck()))
    await reading.wait()
    upload.cancel()
    assert isinstance(await asyncio.wait_for(caught.get(), 20), e.Unavailable)


async def test_progress_lines_end_in_the_result(http: aiohttp.ClientSession, world: World) -> None:
    world.answer("storage", "import_image", IMAGES)
    async with http.post(f"{V}/storage/images/import", data=b"x", headers={"Accept": PROGRESS}) as response:
        assert (response.status, response.content_type) == (200, PROGRESS)
        assert msgspec.json.decode((await response.read()).splitlines()[-1]) == {"images": [], "next": None}
    async with http.post(f"{V}/storage/images/import", data=b"x") as response:
        assert (response.status, await response.json()) == (201, {"images": [], "next": None})


def test_samples_are_of_their_type() -> None:
    assert sample(svc.Readiness) == svc.Readiness(ready=False, checks={})


class Blob:
    """A stand-in for one of the storage component."""

    def __init__(self, size_bytes: int, *items: Any) -> None:
        self.size_bytes = size_bytes
        self._items = flow(*items)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._items


LAYER = sm.LayerRef(digest="sha256:" + "7" * 64)


async def test_a_layer_comes_with_its_length_and_digest(
    client: RestClient, world: World, http: aiohttp.ClientSession
) -> None:
    world.answer("storage", "get_layer", Blob(5, b"on", b"\xff\0e"))
    blob = await client.storage.get_layer(Caller(), LAYER)
    assert blob.size_bytes == 5
    assert b"".join(await all_of(blob)) == b"on\xff\0e"
    assert world.storage.asked == [("get_layer", Caller(), LAYER)]
    world.answer("storage", "get_layer", Blob(2, b"on"))
    async with http.get(f"{V}/storage/layers/{LAYER.digest}") as response:
        assert response.headers["Content-Length"] == "2"
        assert response.headers["Docker-Content-Digest"] == LAYER.digest
        assert await response.read() == b"on"


async def test_a_layer_that_breaks_off_is_not_taken_for_whole(client: RestClient, world: World) -> None:
    world.answer("storage", "get_layer", Blob(5, b"on", e.SubstrateFailed("The disk is gone.")))
    blob = await client.storage.get_layer(Caller(), LAYER)
    with pytest.raises(e.Unavailable):
        await all_of(blob)
