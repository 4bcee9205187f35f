"""The memory substrate: containers in memory, for tests and for trying things out.

A verified fake: tests/conformance/substrate_*.py runs on it as on Linux. Its host is a World, which any number of
MemorySubstrate objects may share, one after the other or at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping

from portlayer.interfaces.substrate import COMPONENTS, Substrate
from portlayer.model.hosts import Capacity
from portlayer.substrates.memory.execution import MemoryExecution
from portlayer.substrates.memory.interaction import MemoryInteraction
from portlayer.substrates.memory.network import MemoryNetwork
from portlayer.substrates.memory.storage import MemoryStorage
from portlayer.substrates.memory.world import World


class MemorySubstrate(Substrate):
    """Drivers over *world*."""

    name = "memory"

    def __init__(self, world: World) -> None:
        self.world = world
        self.storage = MemoryStorage(world)
        self.execution = MemoryExecution(world)
        self.network = MemoryNetwork(world)
        self.interaction = MemoryInteraction(world)

    async def start(self, components: frozenset[str] = COMPONENTS) -> Mapping[str, str]:  # noqa: ARG002
        return {"runtime": "coroutines", "persistence": "none"}

    async def capacity(self) -> Capacity:
        return self.world.capacity

    async def close(self) -> None:
        """Nothing is only ours: programs run on in the world, until `World.close`."""

    async def leftovers(self) -> list[str]:
        incarnations = [f"process {one.id} of container {one.spec.id}" for one in self.world.incarnations.values()]
        links = [f"link {name} of container {one.spec.id}" for one in self.world.live() for name in one.links]
        networks = [f"network {name}" for name in self.world.networks]
        mounts = [f"mount of container {name}" for name, rootfs in self.world.rootfs.items() if rootfs.mounted]
        return [*incarnations, *links, *networks, *mounts]

    async def purge(self) -> None:
        self.world.reboot()
