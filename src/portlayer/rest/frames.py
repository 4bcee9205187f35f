"""The two framings of streams, for both ends.

Attach, over a WebSocket (`portlayer.attach.v1`), one binary message each, 64 KiB at most in total:

    stream (1 byte: 0 stdin, 1 stdout, 2 stderr, 3 control) | bytes

A control message is a JSON object with `type`: `resize` {width, height}, `closeStdin` and `detach` from the client,
`exit` {exitCode, startError?}, `detached` {cursor} and `error` {problem, cursor?} from the server.

Logs, as `application/vnd.portlayer.stream`, integers big-endian:

    stream (1 byte) | length of the bytes (4) | time, ns since the epoch (8) | cursor behind them (8) | bytes

where stream 3 is a problem document that ends the log; its cursor is that of the last piece before it.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from portlayer.model.interaction import CONTROL, Chunk

MAX_FRAME = 64 * 1024
_HEADER = struct.Struct(">BIqq")
_PREFIX = tuple(bytes([stream]) for stream in range(4))


def attach_frames(stream: int, data: bytes) -> Iterator[bytes]:
    """*data* of *stream* as messages of at most 64 KiB."""
    most = MAX_FRAME - 1
    for start in range(0, len(data), most):
        yield _PREFIX[stream] + data[start : start + most]


def control_frame(kind: str, fields: dict[str, Any]) -> bytes:
    """A control message."""
    return _PREFIX[CONTROL] + msgspec.json.encode({**fields, "type": kind})


def log_frame(chunk: Chunk) -> bytes:
    """A piece of a log."""
    return _HEADER.pack(chunk.stream, len(chunk.data), chunk.time, chunk.cursor) + chunk.data


async def log_chunks(pieces: AsyncIterator[bytes]) -> AsyncIterator[Chunk]:
    """The chunks in a framed log, however it was cut on the way; an unfinished frame at the end is dropped."""
    buffer = bytearray()
    async for piece in pieces:
        buffer += piece
        start = 0
        while len(buffer) - start >= _HEADER.size:
            stream, length, time, cursor = _HEADER.unpack_from(buffer, start)
            end = start + _HEADER.size + length
            if end > len(buffer):
                break
            yield Chunk(stream=stream, data=bytes(buffer[start + _HEADER.size : end]), time=time, cursor=cursor)
            start = end
        del buffer[:start]
