"""A port layer of several processes, in the test's own: each with a server on a socket of its own, over one store and
one memory host for each machine. Calls between them go over REST, as they do between real ones."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Self

from portlayer.client import PortLayer, connect
from portlayer.compose import Assembled, Settings, assemble
from portlayer.interfaces.store import Store
from portlayer.model.execution import replace
from portlayer.model.topology import Part, Topology
from portlayer.rest.server import Server
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World

TOPOLOGIES = {
    "together": Topology(),
    "each apart": Topology(
        parts=(
            Part(name="storage", components=("storage",)),
            Part(name="execution", components=("execution",)),
            Part(name="network", components=("network",)),
            Part(name="interaction", components=("interaction",)),
        )
    ),
    "storage apart": Topology(
        parts=(
            Part(name="storage", components=("storage",)),
            Part(name="rest", components=("execution", "network", "interaction")),
        )
    ),
}


class Cluster:
    """The processes of *topology*. A process can be stopped and started by its name, also as another part."""

    def __init__(self, topology: Topology, store: Store, directory: Path) -> None:
        self.topology = topology
        self._store = store
        self._directory = directory
        self._worlds = {host: World() for host in topology.hosts}
        self._processes: dict[str, tuple[contextlib.AsyncExitStack, Assembled]] = {}

    async def __aenter__(self) -> Self:
        for part in self.topology.parts:
            await self.start(part)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self._processes):
            await self.stop(name)
        for world in self._worlds.values():
            world.close()

    def address(self, name: str) -> str:
        return f"unix://{self._directory}/{name}.sock"

    async def start(self, part: Part) -> None:
        """A process that is *part* of the topology."""
        part = replace(part, address=self.address(part.name))
        stack = contextlib.AsyncExitStack()
        substrate = MemorySubstrate(self._worlds.setdefault(part.host, World()))
        settings = Settings(topology=self.topology)
        whole = (self._store, substrate, await substrate.start(), self._directory, "test", settings)
        assembled = await stack.enter_async_context(assemble(*whole, part=part))
        server = Server(assembled.components, assembled.here, assembled.passport)
        await server.listen_unix(self._directory / f"{part.name}.sock")
        stack.push_async_callback(server.drain)
        self._processes[part.name] = stack, assembled

    async def stop(self, name: str) -> None:
        stack, _ = self._processes.pop(name)
        await stack.aclose()

    def at(self, name: str | None = None) -> contextlib.AbstractAsyncContextManager[PortLayer]:
        """A client of the process called *name*, or of the first."""
        return connect(host=self.address(name or self.topology.parts[0].name), retries=0)
