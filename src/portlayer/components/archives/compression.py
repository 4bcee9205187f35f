"""Plain, gzip or zstd, told apart by their first bytes. However well something is compressed, it passes through in
pieces of a megabyte."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import zstandard
from isal import igzip, isal_zlib

from portlayer.components.archives.values import ArchivedLayer
from portlayer.model.errors import InvalidArgument

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_PIECE = 1 << 20
_MAX_WINDOW = 1 << 27
"""Memory that a zstd frame may claim in bytes: what its own tools allow by default."""
_GZIP_OR_ZLIB_HEADER = 31

# The library's own types call its exception class an instance.
_CORRUPT = (cast("type[Exception]", isal_zlib.error), zstandard.ZstdError, EOFError, gzip.BadGzipFile)
Sink = Callable[[bytes], None]


class _Stage(Protocol):
    def feed(self, chunk: bytes) -> None: ...
    def close(self) -> None: ...


class Decompressor:
    """Hands what is fed to *sink*, decompressed. Raises InvalidArgument for what is corrupt or cut short."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head = b""
        self._stage: _Stage | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._stage is None:
            self._head += chunk
            if len(self._head) < len(_ZSTD):
                return
            chunk, self._head = self._head, b""
            self._stage = _stage_for(chunk, self._sink)
        with _corruption():
            self._stage.feed(chunk)

    def close(self) -> None:
        """The bytes are over."""
        if self._stage is not None:
            self._stage.close()
        elif self._head:
            self._sink(self._head)


def _stage_for(head: bytes, sink: Sink) -> _Stage:
    if head.startswith(_GZIP):
        return _Gzip(sink)
    if head.startswith(_ZSTD):
        return _Zstd(sink)
    return _Plain(sink)


class _Plain:
    def __init__(self, sink: Sink) -> None:
        self.feed = sink

    def close(self) -> None:
        pass


class _Gzip:
    """One or more gzip members, with zeros for padding after the last, as gzip(1) takes them."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._member = isal_zlib.decompressobj(wbits=_GZIP_OR_ZLIB_HEADER)

    def feed(self, chunk: bytes) -> None:
        while chunk:
            if self._member.eof:
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    return
                self._member = isal_zlib.decompressobj(wbits=_GZIP_OR_ZLIB_HEADER)
            piece = self._member.decompress(chunk, _PIECE)
            while piece:
                self._sink(piece)
                piece = self._member.decompress(self._member.unconsumed_tail, _PIECE)
            chunk = self._member.unused_data

    def close(self) -> None:
        if not self._member.eof:
            raise InvalidArgument("The gzip stream is truncated; send it again, whole.")


class _Zstd:
    """One or more frames. A cut within the last one shows in the tar: the library does not tell."""

    def __init__(self, sink: Sink) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._writer = decompressor.stream_writer(cast("BinaryIO", _Writer(sink)), write_size=_PIECE)

    def feed(self, chunk: bytes) -> None:
        self._writer.write(chunk)

    def close(self) -> None:
        pass


class _Writer:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, piece: bytes) -> int:
        self._sink(piece)
        return len(piece)


def suffix_of(path: Path) -> str:
    """What the media type of a layer ends with: `+gzip`, `+zstd` or nothing."""
    with path.open("rb") as file:
        head = file.read(len(_ZSTD))
    if head.startswith(_GZIP):
        return "+gzip"
    return "+zstd" if head == _ZSTD else ""


async def open_layer(layer: ArchivedLayer) -> AsyncGenerator[bytes, None]:
    """The uncompressed tar of *layer* in pieces, decompressed in a thread; InvalidArgument where it is corrupt. Whoever
    may stop before its end closes it: it has a file open.

    What the blob begins with decides, not its media type: some tools name another than they write.
    """
    file = await asyncio.to_thread(_open, layer.path)
    try:
        while piece := await asyncio.to_thread(_read, file, layer):
            yield piece
    finally:
        file.close()


def _open(path: Path) -> BinaryIO:
    match suffix_of(path):
        case "+gzip":
            return cast("BinaryIO", igzip.IGzipFile(path, "rb"))  # type: ignore[no-untyped-call]
        case "+zstd":
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            return cast("BinaryIO", decompressor.stream_reader(path.open("rb"), read_across_frames=True))
    return path.open("rb")


def _read(file: BinaryIO, layer: ArchivedLayer) -> bytes:
    with _corruption(f"Layer {layer.digest}"):
        return file.read(_PIECE)


@contextmanager
def _corruption(what: str = "The body") -> Iterator[None]:
    try:
        yield
    except _CORRUPT as error:
        raise InvalidArgument(f"{what} is corrupt or truncated: {error}. Send it again.") from error
