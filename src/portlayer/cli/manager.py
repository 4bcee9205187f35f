"""The service manager that started this process, where one did: what it hands over, and what it wants to be told.

Source: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress

_FIRST_DESCRIPTOR = 3


def notify(state: str) -> None:
    """Send *state*, as `READY=1`, where a service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, suppress(OSError):
        sender.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


def inherited_sockets(environment: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that the manager has opened for us, in its order."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    sockets = [socket.socket(fileno=_FIRST_DESCRIPTOR + number) for number in range(count)]
    for one in sockets:
        one.set_inheritable(False)
    return sockets


async def feed_watchdog(environment: Mapping[str, str]) -> None:
    """Say that we live, twice as often as the manager wants it, for as long as the event loop turns."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    microseconds = int(environment.get("WATCHDOG_USEC", "0"))
    while microseconds:
        notify("WATCHDOG=1")
        await asyncio.sleep(microseconds / 2e6)
