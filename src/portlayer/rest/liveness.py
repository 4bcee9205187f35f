"""Connections over a network that may be cut: no packet says so, only silence."""

from __future__ import annotations

import socket

IDLE_SECONDS, PROBE_SECONDS, PROBES = 5, 3, 3
"""An idle connection is asked after so long; it is given up some 14 seconds after the other end fell silent."""


def ask_after(connection: socket.socket | None) -> None:
    """The kernel asks after the other end of *connection* while nothing is sent.

    What was sent and is not acknowledged has the kernel's patience instead, a quarter of an hour: its shorter limit,
    TCP_USER_TIMEOUT, would also cut off who merely does not read.
    """
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
