"""The shim's log: a line for each piece of output, in which a newline that the process wrote can be told from ours.

    2026-11-23T06:29:22.018603657+00:00 stdout F hello
    |--------------- 35 --------------| |- 6-| |

F: the process wrote a newline after this; P: it did not. Everything before the text has always the same length.
Source: the logging format of Kubernetes' CRI, as conmon's `k8s-file` has it, too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from datetime import datetime

from portlayer.model.interaction import STDERR, STDOUT, Chunk

LARGEST = 60 << 10
"""Bytes in a chunk, as the interface promises."""
_TEXT = 45
_STREAM, _TAG = 36, 43
_STREAMS = {b"stdout ": STDOUT, b"stderr ": STDERR}
_FULL = ord("F")
_END_OF_LINE = re.compile(rb"^.{36}(stdout |stderr )F .*\n", re.MULTILINE)


def parse(block: bytes, start: int, *, split: bool = False) -> tuple[list[Chunk], int]:
    """The pieces in the whole lines of *block*, which begins at cursor *start*; and the cursor after those lines.

    Neighbours on one stream become one chunk, with the time of the first; with *split* only the pieces of one line.
    Lines of any other shape are left out.
    """
    chunks: list[Chunk] = []
    pieces: list[bytes] = []
    size = first = last = position = 0
    stream = b""

    def flush() -> None:
        if pieces:
            data = b"".join(pieces)
            pieces.clear()
            time = nanoseconds(block[first : first + 35])
            chunks.append(Chunk(stream=_STREAMS[stream], data=data, time=time, cursor=start + last))

    while (end := block.find(b"\n", position)) >= 0:
        found = block[position + _STREAM : position + _TAG] if end - position >= _TEXT else b""
        if found in _STREAMS:
            length = end - position - _TEXT
            if found != stream or size + length >= LARGEST or (split and pieces[-1:] and pieces[-1].endswith(b"\n")):
                flush()
                stream, size, first = found, 0, position
            full = block[position + _TAG] == _FULL
            pieces.append(block[position + _TEXT : end + full])
            size += length + full
            last = end + 1
        position = end + 1
    flush()
    return chunks, start + position


def count_lines(block: bytes, streams: Collection[int]) -> int:
    """How many lines of *streams* end in *block*, which begins with a line."""
    return sum(_STREAMS[name] in streams for name in _END_OF_LINE.findall(block))


def nanoseconds(stamp: bytes) -> int:
    """Since the epoch; 0 for what is no time."""
    try:
        return _seconds(stamp[:19] + stamp[29:]) * 1_000_000_000 + int(stamp[20:29])
    except ValueError:
        return 0


@functools.lru_cache(maxsize=16)
def _seconds(stamp: bytes) -> int:
    return int(datetime.fromisoformat(stamp.decode()).timestamp())
