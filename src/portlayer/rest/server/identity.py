"""Who is at the other end of a connection: on a unix socket, the kernel says; over TLS, a certificate."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from aiohttp import web

from portlayer.model.access import ROOT, Identity

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Peers:
    """Finds identities. users: by uid; 0 is the operator always. Of other connections their certificate is told."""

    def __init__(self, users: Mapping[int, Identity] | None = None) -> None:
        self._users = {**(users or {}), 0: ROOT}
        self._known: WeakKeyDictionary[asyncio.BaseTransport, Identity | None] = WeakKeyDictionary()

    def identify(self, http: web.BaseRequest) -> Identity | None:
        """Who sent *http*; None: nobody that is known. The kernel is asked once for each connection."""
        transport = http.transport
        if transport is None:
            return None
        if transport not in self._known:
            self._known[transport] = self._ask(transport.get_extra_info("socket"))
        return self._known[transport]

    def _ask(self, connection: socket.socket | None) -> Identity | None:
        if connection is None or connection.family != socket.AF_UNIX:
            return None
        said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return self._users.get(_CREDENTIALS.unpack(said)[1])

    def certificate(self, http: web.BaseRequest) -> bytes | None:
        """What the other end has proved to have the key of, as DER; None: nothing, or it is a unix socket."""
        connection: ssl.SSLObject | None = http.transport.get_extra_info("ssl_object") if http.transport else None
        return connection.getpeercert(binary_form=True) if connection else None

    def is_local(self, http: web.BaseRequest) -> bool:
        """Whether the other end is on this host."""
        connection: socket.socket | None = http.transport.get_extra_info("socket") if http.transport else None
        return connection is not None and connection.family == socket.AF_UNIX
