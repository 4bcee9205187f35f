"""Connections over a network that may be cut: no packet says so, only silence.

While nothing is sent, the kernel asks after the other end. What was sent and is not acknowledged has the kernel's
patience instead, a quarter of an hour: its shorter limit, TCP_USER_TIMEOUT, would also cut off who merely does not
read, and so would pings of a WebSocket, which are answered by who reads. So we look ourselves: the kernel of one who
does not read acknowledges all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import NamedTuple

_logger = logging.getLogger(__name__)

IDLE_SECONDS, PROBE_SECONDS, PROBES = 5, 3, 3
"""An idle connection is asked after so long; it is given up some 14 seconds after the other end fell silent."""
LOOK_SECONDS = 5.0
SILENT_SECONDS = 10.0
"""One that waits to be acknowledged is given up after so long, at the second look that finds it so: after 20 seconds
at the most. Where the other end has said that it has no room, the kernel asks again every two minutes at the least."""
_TCP_INFO = struct.Struct("=8B13I")
_BREAK = struct.pack("ii", 1, 0)


def ask_after(connection: socket.socket | None) -> None:
    """See to it that *connection* breaks some time after the other end fell silent. Needs a running loop."""
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    _look_later(connection, seen_silent=False)


def _look_later(connection: socket.socket, *, seen_silent: bool) -> None:
    asyncio.get_running_loop().call_later(LOOK_SECONDS, _look, connection, seen_silent)


def _look(connection: socket.socket, seen_silent: bool) -> None:
    """A machine that was asleep finds silence at once, and at the second look that it is over."""
    if connection.fileno() < 0:
        return
    silent = _Sent.of(connection).is_unanswered
    if silent and seen_silent:
        _break(connection)
    else:
        _look_later(connection, seen_silent=silent)


def _break(connection: socket.socket) -> None:
    """Who uses it finds it closed; what was not acknowledged is not sent any more."""
    _logger.warning("a connection is given up, as its other end does not acknowledge anything")
    with contextlib.suppress(OSError):  # it has just been lost
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _BREAK)
        connection.shutdown(socket.SHUT_RDWR)


class _Sent(NamedTuple):
    """What the kernel knows of what went out. Times: seconds ago; probes: that were sent and not acknowledged."""

    unacknowledged: int
    probes: int
    last_sent: float
    last_acknowledged: float

    @classmethod
    def of(cls, connection: socket.socket) -> _Sent:
        told = _TCP_INFO.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
        return cls(unacknowledged=told[12], probes=told[3], last_sent=told[17] / 1e3, last_acknowledged=told[20] / 1e3)

    @property
    def is_unanswered(self) -> bool:
        """Whether something was sent, or sent again, and nothing has come back for long."""
        waits = self.probes or (self.unacknowledged and self.last_sent < self.last_acknowledged)
        return bool(waits) and self.last_acknowledged >= SILENT_SECONDS
