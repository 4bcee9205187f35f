"""The last lines of a log, of which the driver says where they cannot be. The rest is read twice, so that nothing of it
has to be kept, however long it or its lines are."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple

from portlayer.model.interaction import Chunk

Log = AsyncGenerator[Chunk, None]
NEAR = 10_000
"""How many beginnings of lines are remembered. Who asks for more lines has all of it read again."""


class Tail(NamedTuple):
    """Cursors of a log: where to read from, leaving out so many lines at first, and where it ended."""

    begin: int
    left_out: int
    end: int


async def find_tail(log: Log, begin: int, lines: int, streams: frozenset[int]) -> Tail:
    """Where the last *lines* of *streams* are in *log*, which was opened at cursor *begin*."""
    starts = collections.deque[int](maxlen=min(lines, NEAR))
    count, is_open, cursor = 0, False, begin
    async for chunk in log:
        if chunk.stream in streams:
            if not is_open:
                starts.append(cursor)
                count += 1
            is_open = not chunk.data.endswith(b"\n")
        cursor = chunk.cursor
    if lines > NEAR:
        return Tail(begin, max(0, count - lines), cursor)
    return Tail(starts[0] if starts else cursor, 0, cursor)


async def last_lines(log: Log, tail: Tail, streams: frozenset[int]) -> Log:
    """The chunks of *streams* that *tail* has found, from *log*, which was opened at its begin."""
    count, is_open, cursor = 0, False, tail.begin
    async with contextlib.aclosing(log):
        while cursor < tail.end and (chunk := await anext(log, None)) is not None:
            cursor = chunk.cursor
            if chunk.stream in streams:
                count += not is_open
                is_open = not chunk.data.endswith(b"\n")
                if count > tail.left_out:
                    yield chunk
