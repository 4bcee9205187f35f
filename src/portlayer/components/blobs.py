"""Layers as they came, compressed or not: a file each, under the digest of its bytes.

A blob has its name only once it would survive a loss of power, as a layer has. Who may remove one is the importer's
to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Mapping
from io import FileIO
from pathlib import Path

from portlayer.model.errors import InvalidArgument

_PIECE = 1 << 18
_PREFIX = "sha256:"


class Blobs:
    """The blobs below *directory*, of which one process takes care. Digests are `sha256:<hex>`, and valid."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "sha256"

    async def start(self) -> None:
        """Make the directory."""
        await asyncio.to_thread(self._directory.mkdir, mode=0o700, parents=True, exist_ok=True)

    async def keep(self, files: Mapping[str, Path]) -> None:
        """Take *files*, by digest, which are verified and on the same disk; one that is there already stays where it
        is. Raises OSError."""
        await asyncio.to_thread(self._keep, files)

    def _keep(self, files: Mapping[str, Path]) -> None:
        for digest, file in files.items():
            target = self._path(digest)
            if not target.exists():
                _sync(file)
                file.rename(target)
        _sync(self._directory)

    async def digests(self) -> list[str]:
        """All that are here."""
        return [f"{_PREFIX}{name}" for name in await asyncio.to_thread(os.listdir, self._directory)]

    async def remove(self, digest: str) -> None:
        """Who reads it reads on; none being there is fine."""
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(self._path(digest).unlink)

    async def open(self, digest: str, offset: int) -> tuple[int, AsyncGenerator[bytes, None]]:
        """How much there is from *offset* on, and that in pieces; the caller reads or closes them.

        Raises OSError, and InvalidArgument where there is no such offset.
        """
        file = await asyncio.to_thread(self._path(digest).open, "rb", buffering=0)
        pieces = _pieces(file)
        await anext(pieces)  # from here on it closes the file, even where nobody reads
        size = os.fstat(file.fileno()).st_size
        if not 0 <= offset <= size:
            await pieces.aclose()
            raise InvalidArgument(f"The layer has {size} bytes; offset cannot be {offset}.", pointer="?offset")
        file.seek(offset)
        return size - offset, pieces

    def _path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix(_PREFIX)


async def _pieces(file: FileIO) -> AsyncGenerator[bytes, None]:
    with file:
        yield b""
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
