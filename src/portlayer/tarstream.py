"""A tar archive as a stream of members: bytes are pushed in as they come, nothing is read, written or kept.

    reader = TarReader()
    for event in reader.feed(chunk):    # a Member, then the pieces of its content as memoryviews
        ...
    reader.close()                      # raises InvalidArgument where the archive is cut short

Reads ustar, GNU (long names, base-256 numbers) and pax (path, linkpath, size, ids, times, SCHILY.xattr) headers.
Names stay bytes: a tar has no encoding. Sizes are claims: nothing is allocated for them.
Sources: POSIX.1-2017 pax, "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from portlayer.model.errors import InvalidArgument, Unsupported

BLOCK = 512
MAX_EXTENSION = 1 << 20
"""Largest pax header or long name in bytes; these alone are held in memory."""

FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = frozenset({FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"
_EXTENSIONS = frozenset({_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK})
_SAME_AS_FILE = frozenset({b"\0", b"7"})
_XATTR = b"SCHILY.xattr."
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZEROS = bytes(BLOCK)


@dataclass(slots=True)
class Member:
    """One entry. size: bytes of content that follow, 0 for other than files. mtime: nanoseconds since the epoch."""

    name: bytes
    kind: bytes
    size: int
    mode: int
    uid: int
    gid: int
    mtime: int
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The name for people."""
        return show(self.name)


def show(name: bytes) -> str:
    """*name* quoted and bounded, fit for a message."""
    return ascii(name[:200].decode("utf-8", "replace"))


def split(name: bytes, what: str = "Entry") -> list[bytes]:
    """The components of a path; a leading slash is the archive's root, too. Empty for that root itself.

    `..` takes back the component before it, whatever that is.

    Raises:
        InvalidArgument: `..` leads out of the archive, or there is a NUL.
    """
    if b"\0" in name:
        raise InvalidArgument(f"{what} {show(name)} of the archive has a NUL in its name; such archives are refused.")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidArgument(
                    f"{what} {show(name)} of the archive points outside of it; such archives are refused."
                )
            parts.pop()
        elif part not in {b"", b"."}:
            parts.append(part)
    return parts


class TarReader:
    """Turns the bytes of a tar into members. strict demands the end marker, which alone tells a whole tar without a
    digest from one that was cut at the end of a member."""

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._header = b""
        self._content = 0
        self._padding = 0
        self._extension: bytearray | None = None
        self._extension_kind = b""
        self._global: dict[bytes, bytes] = {}
        self._pax: dict[bytes, bytes] = {}
        self._zero_blocks = 0
        self._seen = False

    def feed(self, chunk: bytes) -> Iterator[Member | memoryview]:
        """The events in *chunk*; the iterator must be run to its end before the next call."""
        view = memoryview(chunk)
        at, end = 0, len(view)
        while at < end and self._zero_blocks < 2:
            if self._content:
                piece = view[at : at + self._content]
                at += len(piece)
                self._content -= len(piece)
                if self._extension is None:
                    yield piece
                else:
                    self._extension += piece
                    if not self._content:
                        self._extended()
            elif self._padding:
                step = min(self._padding, end - at)
                at += step
                self._padding -= step
            else:
                step = min(BLOCK - len(self._header), end - at)
                self._header += view[at : at + step]
                at += step
                if len(self._header) == BLOCK:
                    block, self._header = self._header, b""
                    member = self._block(block)
                    if member is not None:
                        yield member

    def close(self) -> None:
        """The bytes are over. Raises InvalidArgument where the archive is not."""
        if not self._seen and not self._zero_blocks:
            raise InvalidArgument("There is no tar archive: the body is empty, or truncated in its first block.")
        unfinished = self._content or self._padding or self._header or self._extension is not None or self._pax
        if unfinished or (self._strict and not self._zero_blocks):
            raise InvalidArgument("The tar archive is truncated; send it again, whole.")

    def _block(self, block: bytes) -> Member | None:
        if block == _ZEROS:
            self._zero_blocks += 1
            return None
        fields = _HEADER.unpack(block)
        if self._zero_blocks or sum(block) - sum(block[148:156]) + 256 != _number(fields[6]):
            where = "is corrupt: a header has a wrong checksum" if self._seen else "is no tar archive"
            raise InvalidArgument(f"The body {where}. Send a tar, plain or compressed with gzip or zstd.")
        self._seen = True
        size = _number(fields[4])
        if size < 0:
            raise InvalidArgument("The tar archive is corrupt: an entry has a negative size.")
        kind = fields[7]
        if kind in _EXTENSIONS:
            if size > MAX_EXTENSION:
                raise InvalidArgument(f"The tar archive has an extended header of {size} bytes; 1 MiB is the most.")
            self._extension, self._extension_kind = bytearray(), kind
            self._expect(size)
            if not size:
                self._extended()
            return None
        return self._member(fields, kind, size)

    def _expect(self, size: int) -> None:
        self._content, self._padding = size, -size % BLOCK

    def _extended(self) -> None:
        data, kind = bytes(self._extension or b""), self._extension_kind
        self._extension = None
        if kind == _PAX:
            self._pax |= _records(data)
        elif kind == _PAX_GLOBAL:
            self._global |= _records(data)
        else:
            self._pax[b"path" if kind == _LONG_NAME else b"linkpath"] = data.split(b"\0", 1)[0]

    def _member(self, fields: tuple[bytes, ...], kind: bytes, size: int) -> Member:
        name, mode, uid, gid, _, mtime, _, _, target, magic, _, _, major, minor, prefix = fields
        name = name.split(b"\0", 1)[0]
        if magic.startswith(b"ustar\0") and prefix[0]:
            name = prefix.split(b"\0", 1)[0] + b"/" + name
        member = Member(
            name=name,
            kind=FILE if kind in _SAME_AS_FILE else kind,
            size=size,
            mode=_number(mode) & 0o7777,
            uid=_number(uid),
            gid=_number(gid),
            mtime=_number(mtime) * 1_000_000_000,
            target=target.split(b"\0", 1)[0],
            device=(_number(major), _number(minor)),
        )
        if self._pax or self._global:
            _override(member, self._global | self._pax)
            self._pax = {}
        if kind == b"\0" and member.name.endswith(b"/"):
            member.kind = DIRECTORY
        if member.kind not in _KINDS:
            what = "sparse" if kind == _SPARSE else f"of type {kind!r}"
            raise Unsupported(
                f"Entry {member.shown} is {what}; write the archive as plain pax tar.", option="tar entry"
            )
        if member.kind != FILE:
            member.size = 0
        self._expect(member.size)
        return member


def _number(text: bytes) -> int:
    """An octal number, or GNU's base-256 one, which has the top bit of its first byte set."""
    if text[0] & 0x80:
        value = int.from_bytes(text[1:], "big")
        return (
            value - (1 << 8 * (len(text) - 1)) if text[0] == 0xFF else value + ((text[0] & 0x7F) << 8 * (len(text) - 1))
        )
    digits = text.split(b"\0", 1)[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise InvalidArgument("The body is no tar archive, or corrupt: a number in a header is none.") from None


def _records(data: bytes) -> dict[bytes, bytes]:
    """The `length key=value` records of a pax header, of which the length counts itself."""
    records = {}
    at = 0
    while at < len(data):
        digits, space, _ = data[at : at + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        key, equals, value = data[at + len(digits) + 1 : at + length].partition(b"=")
        if length <= 0 or at + length > len(data) or not equals or not value.endswith(b"\n"):
            raise InvalidArgument("The tar archive is corrupt: a pax header does not parse.")
        records[key] = value[:-1]
        at += length
    return records


def _override(member: Member, records: dict[bytes, bytes]) -> None:
    for key, value in records.items():
        match key:
            case b"path":
                member.name = value
            case b"linkpath":
                member.target = value
            case b"size":
                member.size = _decimal(value)
            case b"uid":
                member.uid = _decimal(value)
            case b"gid":
                member.gid = _decimal(value)
            case b"mtime":
                member.mtime = _nanoseconds(value)
            case _ if key.startswith(_XATTR):
                member.xattrs[key.removeprefix(_XATTR)] = value
            case _ if key.startswith(b"GNU.sparse."):
                raise Unsupported(f"Entry {member.shown} is sparse; write the archive without it.", option="tar entry")


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise InvalidArgument(f"The tar archive is corrupt: {show(value)} is no number.")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    """Seconds with a decimal fraction, exactly; a float would lose the last digits."""
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    nanoseconds = _decimal(whole) * 1_000_000_000 + _decimal((fraction or b"0")[:9].ljust(9, b"0"))
    return -nanoseconds if value.startswith(b"-") else nanoseconds
