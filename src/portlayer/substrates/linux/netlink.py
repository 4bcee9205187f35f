"""A small rtnetlink: several requests in one datagram, every error read, in words.

A general library spends milliseconds where the kernel needs a tenth of one; this one only does what `links` asks for.
Everything is in host byte order.

Source: linux/netlink.h, linux/rtnetlink.h; NETLINK_EXT_ACK since Linux 4.12.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from sys import byteorder
from typing import NamedTuple, Self

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_TYPE_MASK = 0x3FFF  # without the flags "nested" and "network byte order"
_TIMEOUT_SECONDS = 10
_TIMEOUT = struct.pack("@ll", _TIMEOUT_SECONDS, 0)  # struct timeval
_GET = 2  # message types come in fours: new, delete, get, set
_LARGEST = 1 << 16


class NetlinkError(OSError):
    """The kernel refused a request: errno, and its own words where it gives any."""


class Request(NamedTuple):
    """One request: message type, flags beside REQUEST and ACK, fixed header with attributes."""

    kind: int
    flags: int
    body: bytes


class Reply(NamedTuple):
    """The answer to one request: its error, if any, and the bodies of the messages that it was sent."""

    error: NetlinkError | None
    bodies: list[bytes]


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = len(value) + 4
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def number(kind: int, value: int) -> bytes:
    """An attribute that holds an unsigned number of 32 bits."""
    return struct.pack("=HHI", 8, kind, value)


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a string, ended by NUL."""
    return attribute(kind, value.encode() + b"\0")


def attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes of *body* from *offset* on, by type; what is cut short ends it."""
    found = {}
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def string(value: bytes) -> str:
    """The string in an attribute's *value*."""
    return value.rstrip(b"\0").decode(errors="replace")


class Netlink:
    """A route netlink socket in the network namespace of the thread that makes it. Used by one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        # By the kernel, for a timeout of Python's asks whether there is something before each reading.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Send *requests* at once and read all their answers, in order. The kernel runs each, whatever the others gave.

        At most one of them may be a dump. Raises OSError where the socket itself fails. A change is acknowledged only
        where it is the last: the others came before it, and each that fails says so.
        """
        if not requests:
            return []
        first = self._sequence + 1
        self._sequence += len(requests)
        last = len(requests) - 1
        self._socket.send(b"".join(_packed(one, first + place, place == last) for place, one in enumerate(requests)))
        errors: list[NetlinkError | None] = [None] * len(requests)
        bodies: list[list[bytes]] = [[] for _ in requests]
        waiting = {last, *(place for place, request in enumerate(requests) if _is_dump(request))}
        while waiting:
            for kind, flags, sequence, body in _messages(self._receive()):
                place = sequence - first
                if not 0 <= place < len(requests):
                    continue  # the answer to an exchange that was given up
                if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                    errors[place] = _error(kind, flags, body)
                    waiting.discard(place)
                else:
                    bodies[place].append(body)
                    if not _is_dump(requests[place]):
                        waiting.discard(place)
        return [Reply(error, answer) for error, answer in zip(errors, bodies, strict=True)]

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_LARGEST)
        except BlockingIOError:
            raise TimeoutError(errno.ETIMEDOUT, f"the kernel does not answer for {_TIMEOUT_SECONDS} s") from None

    def run(self, requests: Sequence[Request]) -> list[list[bytes]]:
        """As `exchange`, where every request must succeed; raises the first NetlinkError."""
        replies = self.exchange(requests)
        for reply in replies:
            if reply.error is not None:
                raise reply.error
        return [reply.bodies for reply in replies]


def _packed(request: Request, sequence: int, is_last: bool) -> bytes:
    """As it is sent. What asks is answered anyway."""
    kind, flags, body = request
    flags |= NLM_F_REQUEST | (NLM_F_ACK if is_last and kind % 4 != _GET else 0)
    return _HEADER.pack(len(body) + _HEADER.size, kind, flags, sequence, 0) + body


def _is_dump(request: Request) -> bool:
    return request.flags & NLM_F_DUMP == NLM_F_DUMP and request.kind % 4 == _GET


def _messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        yield kind, flags, sequence, datagram[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _error(kind: int, flags: int, body: bytes) -> NetlinkError | None:
    code = -int.from_bytes(body[:4], byteorder, signed=True) if body else 0
    if code == 0:
        return None
    words = ""
    if flags & _NLM_F_ACK_TLVS:
        # After the code, an error repeats the request's header, and all of the request where it was not capped.
        start = 4
        if kind == _NLMSG_ERROR:
            start += 16 if flags & _NLM_F_CAPPED else int.from_bytes(body[4:8], byteorder)
        words = string(attributes(body, start).get(_NLMSGERR_ATTR_MSG, b""))
    return NetlinkError(code, words or os.strerror(code))
