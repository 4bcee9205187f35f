"""A whole port layer in the test's process, whoever runs where, that is reached over TLS, and callers of all kinds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import tlslab
from apart.cluster import TOGETHER, Cluster, opened

from portlayer.cli.signing import Key
from portlayer.client import PortLayer
from portlayer.compose.tls import Certificates, TlsChoice
from portlayer.model.access import Role
from portlayer.model.grants import Grant
from portlayer.rest import tls
from portlayer.rest.client import RestClient
from portlayer.rest.server import Audit, Server
from portlayer.rest.tls import Chain


@dataclass(frozen=True)
class Held:
    """A certificate and its key, and the grant that they are."""

    grant: Grant
    chain: Chain


@dataclass(frozen=True)
class Rig:
    cluster: Cluster
    server: Server
    port: int
    directory: Path

    @property
    def pl(self) -> PortLayer:
        """The port layer from inside."""
        return PortLayer(self.cluster.served)

    @property
    def certificates(self) -> Certificates:
        assert self.cluster.entry.certificates is not None
        return self.cluster.entry.certificates

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def audit(self) -> str:
        return (self.directory / "audit.log").read_text()

    async def issue(self, subject: str, role: Role, vch: str | None = None, seconds: int = 600) -> Held:
        key = Key()
        made = await self.pl.service.create_certificate(subject, role, key.request, vch=vch, ttl_seconds=seconds)
        return Held(made.certificate, Chain(certificates=made.pem.encode(), key=key.pem))

    async def calling(self, own: Chain | None = None) -> tlslab.Contexts:
        """What a client that trusts this port layer opens connections with."""
        context = tls.client_side(await self.pl.service.authorities(), own)
        return lambda: context

    async def session(self, own: Chain | None = None, token: str = "") -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=(await self.calling(own))())
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return aiohttp.ClientSession(self.address, connector=connector, headers=headers)

    async def client(self, own: Chain | None = None) -> RestClient:
        return RestClient(self.address, await self.calling(own))

    async def status(self, path: str, own: Chain | None = None, verb: str = "GET") -> int:
        async with await self.session(own) as session, session.request(verb, path) as response:
            return response.status


@contextlib.asynccontextmanager
async def running(directory: Path, choice: TlsChoice | None = None, topology: str = TOGETHER) -> AsyncIterator[Rig]:
    choice = choice or TlsChoice(names=("127.0.0.1",))
    async with opened(topology, directory, remote=True, tls=choice) as cluster:
        entry, audit = cluster.entry, Audit(directory / "audit.log")
        server = Server(cluster.served, entry.here, entry.passport, authority=entry.authority, audit=audit)
        rig = Rig(cluster, server, 0, directory)
        port = await server.listen_tls("127.0.0.1", 0, rig.certificates.serving)
        yield Rig(cluster, server, port, directory)
        await server.drain(5)
