"""All that a store holds, at one instant: how a store is moved to another, and what a backup is.

the file    b"portlayer store 1\\n", then Snapshot as msgpack, compressed by zstd with its checksum
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec
import zstandard

from portlayer.model.errors import InvalidArgument, Unavailable

MAGIC = b"portlayer store 1\n"


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A record. position: its place in the transaction that wrote it; ttl, left: of a lease, seconds."""

    key: str
    value: bytes
    revision: int
    created: int
    position: int
    ttl: float | None = None
    left: float = 0.0


class Snapshot(msgspec.Struct, frozen=True):
    """revision: of the store. Deletions of before are not in it: no watch resumes from before."""

    revision: int
    rows: list[Row]


def save(snapshot: Snapshot, file: Path) -> None:
    """Write *file*, whole or not at all, mode 0600.

    Raises:
        Unavailable: it cannot be written.
    """
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(msgspec.msgpack.encode(snapshot))
    try:
        descriptor, fresh = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(MAGIC + packed)
                stream.flush()
                os.fsync(stream.fileno())
            Path(fresh).replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(fresh).unlink()
            raise
    except OSError as error:
        raise Unavailable(f"{file} cannot be written: {error.strerror}.") from None


def read(file: Path) -> Snapshot:
    """What `save` wrote.

    Raises:
        InvalidArgument: it cannot be read, or is no such file, or is damaged.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror}.") from None
    if not data.startswith(MAGIC):
        raise InvalidArgument(f"{file} is no backup of a store, or one of a newer portlayer.")
    try:
        return msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data[len(MAGIC) :]), type=Snapshot)
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise InvalidArgument(f"{file} is damaged: {error}.") from None
