"""A whole port layer in the test's process that is reached over TLS, and callers of all kinds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import tlslab
from harness import Harness

from portlayer.cli.signing import Key
from portlayer.client import PortLayer
from portlayer.compose import Settings
from portlayer.compose.tls import Certificates, TlsChoice
from portlayer.interfaces.store import Store
from portlayer.model.access import Role
from portlayer.model.grants import Grant
from portlayer.model.topology import Part, Topology
from portlayer.rest import tls
from portlayer.rest.client import RestClient
from portlayer.rest.server import Audit, Server
from portlayer.rest.tls import Chain
from portlayer.stores.memory import MemoryStore

REMOTE = Topology(parts=(Part(address="https://127.0.0.1:1"),))


@dataclass(frozen=True)
class Held:
    """A certificate and its key, and the grant that they are."""

    grant: Grant
    chain: Chain


@dataclass(frozen=True)
class Rig:
    harness: Harness
    server: Server
    port: int
    directory: Path

    @property
    def pl(self) -> PortLayer:
        """The port layer from inside."""
        return PortLayer(self.harness.pl)

    @property
    def certificates(self) -> Certificates:
        assert self.harness.certificates is not None
        return self.harness.certificates

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
async def running(directory: Path, choice: TlsChoice | None = None) -> AsyncIterator[Rig]:
    store = MemoryStore()

    async def open_store() -> Store:
        return store

    choice = choice or TlsChoice(names=("127.0.0.1",))
    harness = Harness(open_store, directory, Settings(topology=REMOTE, tls=choice))
    await harness.start()
    try:
        audit = Audit(directory / "audit.log")
        server = Server(harness.pl, harness.here, harness.passport, authority=harness.authority, audit=audit)
        rig = Rig(harness, server, 0, directory)
        port = await server.listen_tls("127.0.0.1", 0, rig.certificates.serving)
        yield Rig(harness, server, port, directory)
        await server.drain(5)
    finally:
        await harness.close()
