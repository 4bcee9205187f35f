"""Questions about names that are not ours: passed to a resolver as they are, and its answer back.

A socket each, so that its port and the number in the message are both new: who cannot see the question cannot answer it
(RFC 5452).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from portlayer.substrates.linux.names import wire
from portlayer.substrates.linux.names.loop import Loop, Waiting

PORT = 53
_TRY_SECONDS = 2.0
_TRIES = 3
_LARGEST = 65535


class Forwarded(Waiting):
    """One question on its way. resolvers: addresses, asked in turn. answer: is called once, with a message.

    over_tcp: it came over TCP, and goes on over TCP.
    """

    def __init__(
        self,
        loop: Loop,
        message: bytes,
        question: wire.Question,
        resolvers: tuple[str, ...],
        answer: Callable[[bytes], None],
        *,
        over_tcp: bool,
    ) -> None:
        self._loop = loop
        self._message = message
        self._question = question
        self._left = list(resolvers[:_TRIES] if len(resolvers) > 1 else resolvers * 2)
        self._answer = answer
        self._over_tcp = over_tcp
        self._sent = self._added = False
        self._received = b""
        self._number = 0
        self._try_next()

    def late(self) -> None:
        self._try_next()

    def ready(self) -> None:
        try:
            if not self._sent:
                self._sent = True
                self.socket.sendall(framed(self._asked()))
                self._loop.read(self)
            else:
                self._read()
        except OSError:
            self._try_next()

    def _try_next(self) -> None:
        """Ask the next resolver; give up after the last."""
        while self._left:
            self._close()
            try:
                self._ask(self._left.pop(0))
            except (OSError, UnicodeError):  # the latter: the host's file names no address
                continue
            return
        self._close()
        self._answer(self._question.answer(wire.SERVER_FAILURE, [], _LARGEST))

    def _ask(self, resolver: str) -> None:
        """Raises OSError where that one cannot be asked."""
        kind = socket.SOCK_STREAM if self._over_tcp else socket.SOCK_DGRAM
        found = socket.getaddrinfo(resolver, PORT, type=kind, flags=socket.AI_NUMERICHOST)[0]
        self.socket = socket.socket(found[0], kind | socket.SOCK_NONBLOCK)
        self._number = int.from_bytes(os.urandom(2), "big")
        self._sent, self._received = not self._over_tcp, b""
        self.deadline = time.monotonic() + _TRY_SECONDS
        try:
            self.socket.connect(found[4])
        except BlockingIOError:
            pass
        except OSError:
            self.socket.close()
            raise
        self._loop.add(self, writing=self._over_tcp)
        self._added = True
        if not self._over_tcp:
            self.socket.send(self._asked())

    def _asked(self) -> bytes:
        return wire.renumber(self._message, self._number)

    def _read(self) -> None:
        data = self.socket.recv(_LARGEST + 2)
        if self._over_tcp:
            self._received += data
            if not data:
                raise ConnectionResetError
            if len(self._received) < 2 or len(self._received) < 2 + int.from_bytes(self._received[:2], "big"):
                return
            data = self._received[2 : 2 + int.from_bytes(self._received[:2], "big")]
        if not wire.answers(data, self._question, self._number):
            return
        if data[3] & 0xF in {wire.SERVER_FAILURE, wire.REFUSED} and self._left:
            self._try_next()
            return
        self._close()
        self._answer(wire.renumber(data, self._question.number))

    def _close(self) -> None:
        if self._added:
            self._added = False
            self._loop.drop(self)


def framed(message: bytes) -> bytes:
    """As it goes over TCP. Source: RFC 1035, section 4.2.2."""
    return len(message).to_bytes(2, "big") + message


class HostResolvers:
    """The name servers in the host's resolv.conf, which is read again when it has changed. Also those on loopback."""

    def __init__(self, path: str = "/etc/resolv.conf") -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._found: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        try:
            status = os.stat(self._path)  # noqa: PTH116
            seen = status.st_ino, status.st_mtime_ns
            if seen != self._seen:
                with open(self._path, "rb") as file:  # noqa: PTH123
                    lines = [line.split() for line in file.read().decode("latin-1").splitlines()]
                self._found = tuple(line[1] for line in lines if line[:1] == ["nameserver"] and len(line) > 1)
                self._seen = seen
        except OSError:
            self._seen, self._found = None, ()
        return self._found
