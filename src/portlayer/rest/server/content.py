"""The bodies of requests: asked for, bounded, or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from aiohttp import ClientError, http_exceptions, web

from portlayer.model.errors import DeadlineExceeded, InvalidArgument, Unavailable
from portlayer.rest.server.answers import Refused

MAX_BODY = 4 * 1024 * 1024
BODY_SECONDS = 60.0


def check_encoding(http: web.BaseRequest) -> None:
    """Refuse a body that is compressed on the way: what an archive is compressed with is its own matter."""
    encoding = http.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise Refused(
            InvalidArgument(f"Content-Encoding {encoding[:100]!r} is not taken; send the body as it is."), 415
        )


async def read(http: web.BaseRequest) -> bytes:
    """The whole body. Raises Refused over `MAX_BODY` bytes (413), or where it takes over `BODY_SECONDS` (408)."""
    too_large = f"The body is over {MAX_BODY} bytes; this call takes no more."
    if (http.content_length or 0) > MAX_BODY:
        raise Refused(InvalidArgument(too_large), 413)
    await _proceed(http)
    with _breaking_off():
        try:
            if http.content.is_eof():
                return await http.read()
            async with asyncio.timeout(BODY_SECONDS):
                return await http.read()
        except TimeoutError:
            late = f"The body did not come within {BODY_SECONDS:g} seconds."
            raise Refused(DeadlineExceeded(late), 408) from None
        except web.HTTPRequestEntityTooLarge:
            raise Refused(InvalidArgument(too_large), 413) from None


async def pieces(http: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body as it comes in; never more of it in memory than the connection's buffer."""
    await _proceed(http)
    with _breaking_off():
        async for piece in http.content.iter_any():
            yield piece


async def _proceed(http: web.BaseRequest) -> None:
    """Ask for the body, where the client waits to be asked (RFC 9110, 10.1.1)."""
    if http.headers.get("Expect", "").lower() == "100-continue":
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


@contextmanager
def _breaking_off() -> Iterator[None]:
    try:
        yield
    except web.RequestPayloadError as error:
        raise InvalidArgument(f"The body is not well-formed HTTP: {error}.") from error
    except (ClientError, ConnectionError, http_exceptions.HttpProcessingError) as error:
        raise Unavailable("The body broke off before its end; send it again.") from error
