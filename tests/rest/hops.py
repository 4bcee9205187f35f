"""Ways to stand-ins: in the process that callers reach, or one hop behind it.

The same words as for real components (`apart.cluster.TOPOLOGIES`), of which only who passes what on matters here.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import tlslab
from apart.cluster import HOSTS, MOVING, TOGETHER

from portlayer.components.routing import missing, routed
from portlayer.interfaces.authority import Authority
from portlayer.interfaces.components import Components
from portlayer.model.topology import COMPONENTS, LOCAL_HOST
from portlayer.rest.client import RestClient
from portlayer.rest.passport import Passport
from portlayer.rest.server import Server
from portlayer.tracing import Untraced

HAVING = {
    TOGETHER: frozenset(COMPONENTS),
    "each apart": frozenset[str](),
    "storage apart": frozenset(COMPONENTS) - {"storage"},
    HOSTS: frozenset({"network"}),
    MOVING: frozenset({"interaction"}),
}
"""Which components the process has that callers reach, by topology."""
BEHIND = {HOSTS: ("west", "east"), MOVING: (LOCAL_HOST, LOCAL_HOST)}
"""The hosts of the processes behind it, which have everything. Those of another one are reached over TLS."""
_PASSPORT = Passport(b"k" * 32)


class _Hosts:
    """A container of stand-ins is on another of *names* each time; on any, where there is but one."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = itertools.cycle(sorted(set(names)))

    async def of(self, _caller: object, _request: object) -> str:
        return next(self._names)

    async def named(self, host: str) -> str:
        return f" on host {host}"


class _InTurn:
    """A directory of several that have everything, by host, of which another one that will do is found each time."""

    def __init__(self, having: Mapping[str, list[RestClient]]) -> None:
        every = [client for clients in having.values() for client in clients]
        self._turns = {host: itertools.cycle(clients) for host, clients in {None: every, **having}.items()}

    def find(self, _component: str, host: str | None = None, _besides: object = None) -> Components:
        return next(self._turns[host]).components

    async def refresh(self) -> None:
        pass


class _Ours(Authority):
    """Takes whoever has a certificate for a process of this port layer: none is met but with one of its CA."""

    async def vouches(self, certificate: bytes) -> bool:
        return True


@contextlib.asynccontextmanager
async def reached(components: Components, topology: str, directory: Path) -> AsyncIterator[Components]:
    """*components*, as the process that callers reach has them in *topology*."""
    have = HAVING[topology]
    if topology == TOGETHER:
        yield components
        return
    hosts = BEHIND.get(topology, (LOCAL_HOST,))
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, list[RestClient]] = {}
        for number, host in enumerate(hosts):
            client = await stack.enter_async_context(_behind(components, directory / f"behind-{number}", host))
            clients.setdefault(host, []).append(client)
        here: dict[str, Any] = {
            name: getattr(components, name) if name in have else missing(name) for name in COMPONENTS
        }
        local = Components(service=components.service, **here)
        where: Any = _Hosts(hosts) if topology == HOSTS else None
        yield routed(local, have, "west" if where else LOCAL_HOST, where, _InTurn(clients), Untraced())


@contextlib.asynccontextmanager
async def _behind(components: Components, path: Path, host: str) -> AsyncIterator[RestClient]:
    """The way to another process with *components*, on *host*."""
    server = Server(components, components, _PASSPORT, authority=_Ours())
    address, contexts = f"unix://{path}", None
    if host == LOCAL_HOST:
        await server.listen_unix(path)
    else:
        address = f"https://127.0.0.1:{await server.listen_tls('127.0.0.1', 0, tlslab.serving())}"
        contexts = tlslab.calling(tlslab.process())
    async with RestClient(address, contexts, passport=_PASSPORT, name=path.name) as client:
        yield client
    await server.drain(5)
