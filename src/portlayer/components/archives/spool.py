"""Members of an archive on their way to disk: each is hashed as it is written, and none is ever held in memory.

Files are numbered, so no name in an archive is ever a name on the host.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import posixpath
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from portlayer import tarstream
from portlayer.components.archives.compression import Decompressor
from portlayer.components.archives.values import Blob
from portlayer.model.errors import InvalidArgument, ResourceExhausted, SubstrateFailed
from portlayer.tarstream import Member

_MAX_MEMBERS = 10_000
_MAX_LINKS = 16
_BLOB_NAME = re.compile(r"blobs/sha256/([0-9a-f]{64})")


T_co = TypeVar("T_co", covariant=True)


class Spool(Protocol[T_co]):
    """Takes a body. Its calls block, so they belong in threads; `close` waits for a feed under way."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def finish(self) -> T_co:
        """The body is over: what it held. Raises InvalidArgument where it is not whole."""

    def close(self) -> None:
        """Let go of what is open; the files stay."""


class Contents:
    """The files of an archive by name; links among them count as the files that they lead to."""

    def __init__(self) -> None:
        self.files: dict[str, Blob] = {}
        self.links: dict[str, str] = {}

    def get(self, name: str) -> Blob | None:
        """The file called *name*, through links."""
        name = posixpath.normpath(name)
        for _ in range(_MAX_LINKS):
            if name not in self.links:
                return self.files.get(name)
            name = self.links[name]
        return None


class ArchiveSpool:
    """An archive of images. staged: is told how many bytes of it there are, decompressed, before they are written."""

    def __init__(self, directory: Path, staged: Callable[[int], None]) -> None:
        self._staged = staged
        self._bytes = 0
        self._directory = directory
        self._lock = threading.Lock()
        self._reader = tarstream.TarReader(strict=True)
        self._decompressor = Decompressor(self._take)
        self._file: _Spooled | None = None
        self._members = 0
        self._contents = Contents()

    def feed(self, chunk: bytes) -> None:
        with self._lock, _disk_errors():
            self._decompressor.feed(chunk)

    def finish(self) -> Contents:
        with self._lock, _disk_errors():
            self._decompressor.close()
            self._reader.close()
            self._finish_file()
        return self._contents

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()

    def _take(self, piece: bytes) -> None:
        self._bytes += len(piece)
        self._staged(self._bytes)
        for event in self._reader.feed(piece):
            if not isinstance(event, memoryview):
                self._finish_file()
                self._member(event)
            elif self._file is not None:
                self._file.write(event)

    def _member(self, member: Member) -> None:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise InvalidArgument(
                f"The archive has more than {_MAX_MEMBERS} members, which no image archive has; "
                "pass format=rootfs where it is a root filesystem."
            )
        name = "/".join(part.decode("utf-8", "surrogateescape") for part in tarstream.split(member.name))
        self._contents.links.pop(name, None)
        match member.kind:
            case tarstream.FILE:
                self._file = _Spooled(self._directory / f"{self._members}", name)
            case tarstream.SYMLINK:
                target = posixpath.join(posixpath.dirname(name), member.target.decode("utf-8", "surrogateescape"))
                self._contents.links[name] = posixpath.normpath(target)
            case tarstream.HARD_LINK:
                parts = tarstream.split(member.target, f"The hard link {member.shown} to")
                self._contents.links[name] = "/".join(part.decode("utf-8", "surrogateescape") for part in parts)

    def _finish_file(self) -> None:
        if self._file is None:
            return
        spooled, self._file = self._file, None
        blob = spooled.finish()
        promised = _BLOB_NAME.fullmatch(spooled.name)
        if promised is not None and blob.digest != f"sha256:{promised[1]}":
            raise InvalidArgument(f"{spooled.name} of the archive has the digest {blob.digest}; it is corrupt.")
        self._contents.files[spooled.name] = blob


class RootfsSpool:
    """A root filesystem: the tar itself, uncompressed, is the one blob. staged: as of an archive."""

    def __init__(self, directory: Path, staged: Callable[[int], None]) -> None:
        self._staged = staged
        self._bytes = 0
        self._lock = threading.Lock()
        self._reader = tarstream.TarReader(strict=True)
        self._decompressor = Decompressor(self._take)
        self._file = _Spooled(directory / "rootfs.tar", "rootfs.tar")

    def feed(self, chunk: bytes) -> None:
        with self._lock, _disk_errors():
            self._decompressor.feed(chunk)

    def finish(self) -> Blob:
        with self._lock, _disk_errors():
            self._decompressor.close()
            self._reader.close()
            return self._file.finish()

    def close(self) -> None:
        """Let go of what is open; the file stays."""
        with self._lock:
            self._file.close()

    def _take(self, piece: bytes) -> None:
        self._bytes += len(piece)
        self._staged(self._bytes)
        for _ in self._reader.feed(piece):
            pass
        self._file.write(memoryview(piece))


class _Spooled:
    """A file being written and hashed. Nothing is buffered: whatever fails to be written fails at once, and not when a
    file that nobody needs any more is closed."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._path = path
        self._file = path.open("xb", buffering=0)
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, piece: memoryview) -> None:
        self._digest.update(piece)
        self._size += len(piece)
        while piece:
            piece = piece[self._file.write(piece) :]

    def finish(self) -> Blob:
        self._file.close()
        return Blob(self._path, f"sha256:{self._digest.hexdigest()}", self._size)

    def close(self) -> None:
        """Let go of it, finished or not: what is thrown away need not be whole."""
        with contextlib.suppress(OSError):
            self._file.close()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ResourceExhausted("The disk is full; free space and import again.", resource="disk") from error
        raise SubstrateFailed(f"The archive cannot be written to disk: {error}.", step="storage.import") from error
