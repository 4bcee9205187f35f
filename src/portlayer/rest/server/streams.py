"""Answers that go on: a stream of bytes as a chunked body."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from portlayer.model.errors import Unavailable
from portlayer.rest.iterators import close
from portlayer.rest.server.exchange import Exchange

_logger = logging.getLogger(__name__)


async def stream(
    exchange: Exchange,
    media_type: str,
    pieces: AsyncIterator[bytes],
    headers: Mapping[str, str] | None = None,
    *,
    drains: bool = False,
) -> web.StreamResponse:
    """Send *pieces* as they come, each when the one before has left.

    A failure in the middle cuts the connection, so that the caller cannot take what it got for the whole; a drain
    does too, unless *pieces* end by themselves when the server *drains*.
    """
    transport = exchange.http.transport
    if transport is None:
        await close(pieces)
        raise Unavailable("The caller went away.")
    response = web.StreamResponse(headers={"Content-Type": media_type, "Cache-Control": "no-store", **(headers or {})})
    if not drains:
        exchange.shared.cut_at_drain.add(transport)
    try:
        await response.prepare(exchange.http)
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
    except ConnectionError:
        _logger.debug("the caller of %s went away", exchange.call.name)
    except Exception:
        _logger.exception("%s broke off", exchange.call.name)
        transport.abort()
    finally:
        exchange.shared.cut_at_drain.discard(transport)
        await close(pieces)
    return response
