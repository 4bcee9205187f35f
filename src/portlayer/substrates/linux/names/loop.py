"""Waiting for many sockets at once, with deadlines."""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable

NEVER = float("inf")
_TICK_SECONDS = 0.25
_TOLD = 100  # so many failures are told; whoever can cause them could fill the log


class Waiting:
    """Something with a socket that does not block. `ready` is called when there is something to do with it, `late`
    once the deadline, in seconds of the monotonic clock, has passed."""

    deadline = NEVER
    socket: socket.socket

    @property
    def open(self) -> bool:
        return self.socket.fileno() >= 0

    def ready(self) -> None:
        raise NotImplementedError

    def late(self) -> None:
        raise NotImplementedError


class Loop:
    """Whatever goes wrong with one, the others go on."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, Waiting] = {}
        self._calls: dict[int, Callable[[], None]] = {}
        self._told = 0

    def call(self, descriptor: int, work: Callable[[], None]) -> None:
        """Do *work* whenever *descriptor* can be read."""
        self._calls[descriptor] = work
        self._epoll.register(descriptor, select.EPOLLIN)

    def add(self, one: Waiting, *, writing: bool = False) -> None:
        """Wait for *one*: until it can be read, or written."""
        descriptor = one.socket.fileno()
        self._waiting[descriptor] = one
        self._epoll.register(descriptor, select.EPOLLOUT if writing else select.EPOLLIN)

    def read(self, one: Waiting) -> None:
        """From now on until it can be read."""
        self._epoll.modify(one.socket.fileno(), select.EPOLLIN)

    def drop(self, one: Waiting) -> None:
        """Close its socket; doing it again is fine."""
        descriptor = one.socket.fileno()
        if self._waiting.get(descriptor) is one:
            del self._waiting[descriptor]
            self._epoll.unregister(descriptor)
        one.socket.close()

    def run(self) -> None:
        """For ever."""
        while True:
            timed = any(one.deadline != NEVER for one in self._waiting.values())
            for descriptor, _ in self._epoll.poll(_TICK_SECONDS if timed else None):
                if descriptor in self._waiting:
                    self._do(self._waiting[descriptor].ready)
                elif descriptor in self._calls:
                    self._do(self._calls[descriptor])
            if timed:
                now = time.monotonic()
                for one in [one for one in self._waiting.values() if one.deadline < now]:
                    self._do(one.late)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:  # noqa: BLE001 - one question must not end the answers to all others
            self._told += 1
            if self._told <= _TOLD:
                sys.excepthook(*sys.exc_info())
