"""Storage over REST: imports, whose bodies stream in while progress streams out, and layers on their way out."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from aiohttp import web

from portlayer.model import storage as m
from portlayer.model.errors import PortlayerError
from portlayer.rest import problems
from portlayer.rest.calls import Call
from portlayer.rest.calls import storage as calls
from portlayer.rest.calls.call import BYTES
from portlayer.rest.server.answers import json_answer
from portlayer.rest.server.exchange import Exchange, Handler
from portlayer.rest.server.streams import stream

_logger = logging.getLogger(__name__)
_encode_lines = msgspec.json.Encoder().encode_lines


class _Latest:
    """The newest progress of each item, until it is taken: a reader that is slow gets fewer lines, not later ones."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, m.Progress] = {}
        self._wake = asyncio.Event()

    def report(self, progress: m.Progress) -> None:
        """May be called from any thread."""
        self._loop.call_soon_threadsafe(self._keep, progress)

    def _keep(self, progress: m.Progress) -> None:
        self._lines[progress.id] = progress
        self._wake.set()

    async def some_or(self, job: asyncio.Future[m.Images]) -> bool:
        """Wait until there is something to take, or *job* is done; whether there is something."""
        job.add_done_callback(lambda _: self._wake.set())
        await self._wake.wait()
        self._wake.clear()
        return bool(self._lines)

    def take(self) -> list[Any]:
        lines, self._lines = self._lines, {}
        return list(lines.values())


async def import_image(exchange: Exchange) -> web.StreamResponse:
    request: m.ImportImage = exchange.request
    storage = exchange.components.storage
    if not exchange.accepts(calls.PROGRESS):
        images = await storage.import_image(exchange.caller, request, exchange.body())
        return json_answer(images, exchange.call.status)
    latest = _Latest()
    job = asyncio.ensure_future(storage.import_image(exchange.caller, request, exchange.body(), latest.report))
    try:
        if not await latest.some_or(job):
            await job  # what fails before any progress has a status of its own
        return await _narrate(exchange.http, job, latest)
    finally:
        job.cancel()
        await asyncio.wait({job})


async def _narrate(http: web.BaseRequest, job: asyncio.Future[m.Images], latest: _Latest) -> web.StreamResponse:
    """Progress lines, then the result or a problem."""
    response = web.StreamResponse(headers={"Content-Type": calls.PROGRESS})
    try:
        await response.prepare(http)
        while not job.done():
            await response.write(_encode_lines(latest.take()))
            await latest.some_or(job)
        await response.write(_encode_lines([*latest.take(), _outcome(job)]))
    except ConnectionError:
        _logger.debug("the importing client went away")
        await asyncio.wait({job})
    return response


def _outcome(job: asyncio.Future[m.Images]) -> Any:
    try:
        return job.result()
    except PortlayerError as error:
        return {"problem": problems.document(error)}
    except Exception:
        _logger.exception("import failed in a way that it should not")
        return {"problem": problems.internal()}


async def get_layer(exchange: Exchange) -> web.StreamResponse:
    request: m.LayerRef = exchange.request
    blob = await exchange.components.storage.get_layer(exchange.caller, request)
    headers = {"Content-Length": f"{blob.size_bytes}", calls.DIGEST_HEADER: request.digest}
    return await stream(exchange, BYTES, blob, headers)


HANDLERS: dict[Call[Any, Any], Handler] = {calls.IMPORT_IMAGE: import_image, calls.GET_LAYER: get_layer}
