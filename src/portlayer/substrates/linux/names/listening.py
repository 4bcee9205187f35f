"""Port 53 of a gateway, over UDP and TCP."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial

from portlayer.substrates.linux.names import wire
from portlayer.substrates.linux.names.forward import PORT, framed
from portlayer.substrates.linux.names.loop import Loop, Waiting
from portlayer.substrates.linux.names.records import packed

Answer = Callable[[bytes], None]
# Called with who asks, the message, what to call with the answer, once at most and maybe later, and its largest size.
Handler = Callable[[bytes, bytes, Answer, int], None]

_BURST = 64
_IDLE_SECONDS = 10.0
_LARGEST = 65535
_MOST_CONNECTIONS = 64
_IPV6_FREEBIND = 78  # bits/in.h; Python has no name for it


def listen(loop: Loop, bridge: str, gateway: str, handle: Handler) -> list[Waiting]:
    """Sockets at the address *gateway* of the link *bridge*; raises OSError, with none left open.

    Only what comes over this very link gets there: who is on another network does not.
    """
    family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    made: list[Waiting] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            own = socket.socket(family, kind | socket.SOCK_NONBLOCK)
            made.append(Datagrams(own, handle) if kind == socket.SOCK_DGRAM else Listener(own, loop, handle))
            own.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
            if family == socket.AF_INET6:  # the address may be tentative yet
                own.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            if kind == socket.SOCK_STREAM:
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind((gateway, PORT))
            if kind == socket.SOCK_STREAM:
                own.listen(_BURST)
            loop.add(made[-1])
    except OSError:
        for one in made:
            loop.drop(one)
        raise
    return made


class Datagrams(Waiting):
    """UDP."""

    def __init__(self, own: socket.socket, handle: Handler) -> None:
        self.socket = own
        self._handle = handle

    def ready(self) -> None:
        for _ in range(_BURST):
            try:
                message, sender = self.socket.recvfrom(_LARGEST)
            except OSError:  # no more, or the network has gone meanwhile
                return
            self._handle(_source(sender), message, partial(self._send, sender), wire.LARGEST_UDP)

    def _send(self, to: tuple[str, int], message: bytes) -> None:
        try:
            self.socket.sendto(message, to)
        except OSError:
            return  # who asked is gone, or does not read: it will ask again


class Listener(Waiting):
    """TCP."""

    def __init__(self, own: socket.socket, loop: Loop, handle: Handler) -> None:
        self.socket = own
        self.loop = loop
        self.handle = handle
        self.connections = 0

    def ready(self) -> None:
        try:
            accepted, peer = self.socket.accept()
        except OSError:  # it is gone again
            return
        if self.connections < _MOST_CONNECTIONS:
            Conversation(accepted, self, _source(peer))
        else:
            accepted.close()


class Conversation(Waiting):
    """One connection: questions one after the other, each after its length."""

    def __init__(self, own: socket.socket, listener: Listener, source: bytes) -> None:
        own.setblocking(False)
        self.socket = own
        self._listener = listener
        self._source = source
        self._received = b""
        self.deadline = time.monotonic() + _IDLE_SECONDS
        listener.connections += 1
        listener.loop.add(self)

    def ready(self) -> None:
        try:
            data = self.socket.recv(_LARGEST)
        except OSError:
            data = b""
        if not data:
            self.late()
            return
        self._received += data
        while len(self._received) >= 2 and self.open:
            end = 2 + int.from_bytes(self._received[:2], "big")
            if len(self._received) < end:
                return
            message, self._received = self._received[2:end], self._received[end:]
            self.deadline = time.monotonic() + _IDLE_SECONDS
            self._listener.handle(self._source, message, self._send, wire.LARGEST_TCP)

    def late(self) -> None:
        """It is over."""
        if self.open:
            self._listener.connections -= 1
            self._listener.loop.drop(self)

    def _send(self, message: bytes) -> None:
        data = framed(message)
        try:
            whole = self.open and self.socket.send(data) == len(data)
        except OSError:
            whole = False
        if not whole:  # who asked is gone, or does not read
            self.late()


def _source(peer: tuple[str, int]) -> bytes:
    return packed(peer[0].partition("%")[0])
