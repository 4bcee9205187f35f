"""A DNS client and a resolver for tests, apart from the code under test. Source: RFC 1035."""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

A, PTR, AAAA, MX = 1, 12, 28, 15
SECONDS = 10.0


class Answer(NamedTuple):
    """found: addresses, or names. more: whether there was no room for all of it."""

    code: int
    found: list[str]
    more: bool
    number: int


def question(name: str, kind: int = A, number: int = 7, tail: bytes = b"", additional: int = 0) -> bytes:
    labels = [label.encode() for label in name.split(".") if label]
    packed = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return struct.pack("!6H", number, 0x100, 1, 0, 0, additional) + packed + struct.pack("!HH", kind, 1) + tail


def read_answer(message: bytes) -> Answer:
    """Every byte of *message* has its place, or this fails."""
    number, flags, questions, many, *others = struct.unpack_from("!6H", message)
    assert flags & 0x8000
    assert others == [0, 0]
    place = 12
    for _ in range(questions):
        _, place = _name(message, place)
        place += 4
    found = []
    for _ in range(many):
        _, place = _name(message, place)
        kind, _, _, size = struct.unpack_from("!HHIH", message, place)
        place += 10
        data = message[place : place + size]
        assert len(data) == size
        found.append(_name(message, place)[0] if kind == PTR else str(ipaddress.ip_address(data)))
        place += size
    assert place == len(message)
    return Answer(flags & 0xF, found, bool(flags & 0x200), number)


def _name(message: bytes, place: int) -> tuple[str, int]:
    labels: list[str] = []
    while length := message[place]:
        if length >= 0xC0:
            target = struct.unpack_from("!H", message, place)[0] & 0x3FFF
            assert target < place
            return ".".join([*labels, _name(message, target)[0]]), place + 2
        labels.append(message[place + 1 : place + 1 + length].decode("latin-1"))
        place += 1 + length
    return ".".join(labels), place + 1


def exchange(made: socket.socket, server: str, *messages: bytes, seconds: float = SECONDS) -> list[bytes]:
    """Send *messages* at once; an answer to each, in the order in which they come."""
    with made:
        made.settimeout(seconds)
        made.connect((server, 53))
        if made.type == socket.SOCK_DGRAM:
            for message in messages:
                made.send(message)
            return [made.recv(65535) for _ in messages]
        made.sendall(b"".join(struct.pack("!H", len(message)) + message for message in messages))
        return [_exactly(made, struct.unpack("!H", _exactly(made, 2))[0]) for _ in messages]


def _exactly(made: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = made.recv(size - len(data))
        assert more, "the connection was closed"
        data += more
    return data


@contextmanager
def resolver(bind: Callable[[int], socket.socket], reply: Callable[[bytes], bytes]) -> Iterator[list[bytes]]:
    """Something that answers questions over UDP and TCP, as *reply* says; what it was asked.

    bind: makes a socket of a kind where the resolver shall be.
    """
    asked: list[bytes] = []
    sockets = [bind(socket.SOCK_DGRAM), bind(socket.SOCK_STREAM)]
    sockets[1].listen()
    stop, stopping = socket.socketpair()

    def serve() -> None:
        while stop not in (ready := select.select([*sockets, stop], [], [])[0]):
            _answer(ready[0], asked, reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        stopping.close()
        thread.join()
        for one in (*sockets, stop):
            one.close()


def _answer(own: socket.socket, asked: list[bytes], reply: Callable[[bytes], bytes]) -> None:
    if own.type == socket.SOCK_DGRAM:
        message, sender = own.recvfrom(65535)
        asked.append(message)
        own.sendto(reply(message), sender)
        return
    accepted, _ = own.accept()
    with accepted:
        message = _exactly(accepted, struct.unpack("!H", _exactly(accepted, 2))[0])
        asked.append(message)
        answer = reply(message)
        accepted.sendall(struct.pack("!H", len(answer)) + answer)


def says(address: str, *, code: int = 0) -> Callable[[bytes], bytes]:
    """A resolver that knows every name: it is at *address*."""

    def reply(message: bytes) -> bytes:
        number = message[:2]
        end = message.index(b"\0", 12) + 5
        record = b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 60, 4) + socket.inet_aton(address)
        head = number + struct.pack("!5H", 0x8180 | code, 1, 0 if code else 1, 0, 0)
        return head + message[12:end] + (b"" if code else record)

    return reply
