"""Interaction over REST: streams of a task as chunked bodies. Attach has a module of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from portlayer.model import interaction as m
from portlayer.model.base import rfc3339
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.rest import problems
from portlayer.rest.calls import Call
from portlayer.rest.calls import interaction as calls
from portlayer.rest.calls.call import BYTES, TEXT
from portlayer.rest.frames import log_frame
from portlayer.rest.iterators import close, until
from portlayer.rest.server.attach import attach
from portlayer.rest.server.exchange import Exchange, Handler
from portlayer.rest.server.streams import stream

_logger = logging.getLogger(__name__)
_STOPPING = Unavailable("The port layer is stopping; follow the log again when it is back.", retry_after_seconds=1)


async def stdout(exchange: Exchange) -> web.StreamResponse:
    return await _output(exchange, m.STDOUT)


async def stderr(exchange: Exchange) -> web.StreamResponse:
    return await _output(exchange, m.STDERR)


async def _output(exchange: Exchange, number: int) -> web.StreamResponse:
    request: m.Streams = exchange.request
    pieces = await exchange.components.interaction.output(exchange.caller, request, number)
    return await stream(exchange, BYTES, pieces)


async def write_stdin(exchange: Exchange) -> web.StreamResponse:
    request: m.Streams = exchange.request
    await exchange.components.interaction.write_stdin(exchange.caller, request, exchange.body())
    return web.Response(status=204)


async def logs(exchange: Exchange) -> web.StreamResponse:
    request: m.Logs = exchange.request
    chunks = await exchange.components.interaction.logs(exchange.caller, request)
    if exchange.accepts(calls.FRAMES):
        ending = exchange.shared.draining if request.follow else None
        return await stream(exchange, calls.FRAMES, _framed(chunks, ending), drains=request.follow)
    return await stream(exchange, TEXT, _plain(chunks, timestamps=request.timestamps))


async def _framed(chunks: AsyncIterator[m.Chunk], draining: asyncio.Event | None) -> AsyncIterator[bytes]:
    """Frames; *draining* ends them with a problem, and with the cursor from which a log goes on."""
    cursor = 0
    try:
        async for chunk in chunks if draining is None else until(chunks, draining):
            cursor = chunk.cursor
            yield log_frame(chunk)
        if draining is not None and draining.is_set():
            raise _STOPPING
    except PortlayerError as error:
        problem = msgspec.json.encode(problems.document(error))
        yield log_frame(m.Chunk(stream=m.CONTROL, data=problem, time=0, cursor=cursor))
    finally:
        await close(chunks)


async def _plain(chunks: AsyncIterator[m.Chunk], *, timestamps: bool) -> AsyncIterator[bytes]:
    """The bytes of both streams in their order; a time before each line, where asked."""
    inside_line = dict.fromkeys((m.STDOUT, m.STDERR), False)
    try:
        async for chunk in chunks:
            yield _stamped(chunk, inside_line=inside_line[chunk.stream]) if timestamps else chunk.data
            inside_line[chunk.stream] = not chunk.data.endswith(b"\n")
    finally:
        await close(chunks)


def _stamped(chunk: m.Chunk, *, inside_line: bool) -> bytes:
    stamp = f"{rfc3339(chunk.time)} ".encode()
    body, last = chunk.data[:-1], chunk.data[-1:]  # a newline at the end starts no line in this chunk
    return (b"" if inside_line else stamp) + body.replace(b"\n", b"\n" + stamp) + last


HANDLERS: dict[Call[Any, Any], Handler] = {
    calls.ATTACH: attach,
    calls.STDOUT: stdout,
    calls.STDERR: stderr,
    calls.WRITE_STDIN: write_stdin,
    calls.LOGS: logs,
}
