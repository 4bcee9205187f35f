"""The service over REST: what is not plain decode, call, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from portlayer.model import service as m
from portlayer.model.events import NumberedEvent
from portlayer.rest.calls import Call
from portlayer.rest.calls import service as calls
from portlayer.rest.calls.call import BYTES, TEXT
from portlayer.rest.iterators import close
from portlayer.rest.server import docs, openapi
from portlayer.rest.server.answers import json_answer
from portlayer.rest.server.exchange import Exchange, Handler
from portlayer.rest.server.streams import stream

KEEP_ALIVE_SECONDS = 15.0
_CSP = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


async def health(_exchange: Exchange) -> web.StreamResponse:
    return web.Response(text="ok\n", content_type=TEXT)


async def ready(exchange: Exchange) -> web.StreamResponse:
    if exchange.shared.leaving.is_set():
        return json_answer(m.Readiness(ready=False, checks={"process": "stopping"}), 503)
    readiness: m.Readiness = await exchange.invoke()
    return json_answer(readiness, 200 if readiness.ready else 503)


async def metrics(exchange: Exchange) -> web.StreamResponse:
    text: str = await exchange.invoke()
    return web.Response(body=text.encode(), headers={"Content-Type": calls.METRICS})


async def openapi_json(_exchange: Exchange) -> web.StreamResponse:
    return json_answer(openapi.document())


async def docs_page(_exchange: Exchange) -> web.StreamResponse:
    return web.Response(text=docs.page(), content_type=calls.HTML, headers={"Content-Security-Policy": _CSP})


async def get_kv(exchange: Exchange) -> web.StreamResponse:
    entry: m.KvEntry = await exchange.invoke()
    return web.Response(body=entry.value, content_type=BYTES, headers=_etag(entry))


async def put_kv(exchange: Exchange) -> web.StreamResponse:
    entry: m.KvEntry = await exchange.invoke()
    return web.Response(status=204, headers=_etag(entry))


async def vch(exchange: Exchange) -> web.StreamResponse:
    found: m.Vch = await exchange.invoke()
    answer = json_answer(found, exchange.call.status)
    answer.headers["ETag"] = f'"{found.version}"'
    return answer


def _etag(entry: m.KvEntry) -> dict[str, str]:
    return {"ETag": f'"{entry.etag}"'}


async def events(exchange: Exchange) -> web.StreamResponse:
    """Server-sent events; a browser's `Last-Event-ID` goes before the `since` that its URL still has."""
    request: m.Subscribe = exchange.request
    since = exchange.http.headers.get("Last-Event-ID") or request.since
    numbered = await exchange.components.service.events(exchange.caller, m.Subscribe(since=since))
    return await stream(exchange, calls.EVENT_STREAM, _frames(numbered, exchange.shared.draining), drains=True)


async def _frames(numbered: AsyncIterator[NumberedEvent], draining: asyncio.Event) -> AsyncIterator[bytes]:
    """Event frames, until the server drains. The comments in between show either side when the other has gone."""
    yield b": events follow\n\n"
    drained = asyncio.ensure_future(draining.wait())
    following = asyncio.ensure_future(anext(numbered, None))
    try:
        while not drained.done():
            await asyncio.wait({drained, following}, timeout=KEEP_ALIVE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                yield b": still here\n\n"
                continue
            event = following.result()
            if event is None:
                return
            following = asyncio.ensure_future(anext(numbered, None))
            yield event_frame(event)
    finally:
        drained.cancel()
        following.cancel()
        await asyncio.gather(drained, following, return_exceptions=True)
        await close(numbered)


def event_frame(numbered: NumberedEvent) -> bytes:
    """One event as the event stream has it.

    An id is a revision, which the last event of it has. The others have their cursor in a field that the standard
    ignores: who knows it goes on exactly there, who does not sees them again, and none is lost.
    """
    data = msgspec.json.encode(numbered.event).decode()
    place = "cursor" if "." in numbered.cursor else "id"
    return f"{place}: {numbered.cursor}\nevent: {numbered.event.type}\ndata: {data}\n\n".encode()


HANDLERS: dict[Call[Any, Any], Handler] = {
    calls.HEALTH: health,
    calls.READY: ready,
    calls.METRICS_TEXT: metrics,
    calls.OPENAPI: openapi_json,
    calls.DOCS: docs_page,
    calls.CREATE_VCH: vch,
    calls.GET_VCH: vch,
    calls.UPDATE_VCH: vch,
    calls.EVENTS: events,
    calls.GET_KV: get_kv,
    calls.PUT_KV: put_kv,
}
