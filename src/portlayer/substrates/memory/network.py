"""Network in memory: links are entries of their incarnation, and `World.reaches` answers what they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from portlayer.interfaces.substrate import Link, Missing
from portlayer.model.errors import SubstrateFailed, Unsupported
from portlayer.model.execution import ContainerSpec
from portlayer.model.network import EndpointSpec, NetworkSpec
from portlayer.substrates.memory.driver import Driver, step
from portlayer.substrates.memory.view import write_network_files


class MemoryNetwork(Driver):
    """Networks and links of a World."""

    room = "network"

    @step
    async def make_network(self, network: NetworkSpec) -> None:
        if network.ipv6 and not self.world.ipv6:
            raise Unsupported(f"Network {network.name} has IPv6, and this host has none.", option="ipv6")
        self.world.networks[network.id] = network

    @step
    async def remove_network(self, network: str) -> None:
        self.world.networks.pop(network, None)
        self.world.published = {name: end for name, end in self.world.published.items() if end.network != network}
        for one in self.world.live():
            one.links = {name: end for name, end in one.links.items() if end.network != network}

    @step
    async def networks(self) -> list[str]:
        return sorted(self.world.networks)

    @step
    async def missing(self, networks: Sequence[NetworkSpec], links: Sequence[Link]) -> Missing:
        found = {link.endpoint.id: self.find(link.container, link.incarnation) for link in links}
        hidden = {link.endpoint.id for link in links if link.published} - self.world.published.keys()
        return Missing(
            networks=tuple(network.id for network in networks if network.id not in self.world.networks),
            links=tuple(
                endpoint
                for endpoint, one in found.items()
                if one is None or not one.live or endpoint not in one.links or endpoint in hidden
            ),
        )

    @step
    async def plug(self, container: str, incarnation: str, endpoint: EndpointSpec, network: NetworkSpec) -> None:
        found = self.live(container, incarnation, "network.plug")
        if network.id not in self.world.networks:
            raise SubstrateFailed(
                f"Network {network.name} is not on this host; make it first.", step="network.plug", id=container
            )
        found.links[endpoint.id] = endpoint
        self.world.withdraw(endpoint.addresses)

    @step
    async def unplug(self, container: str, incarnation: str, endpoint: str) -> None:
        found = self.find(container, incarnation)
        if found is not None:
            found.links.pop(endpoint, None)
        self.world.published.pop(endpoint, None)

    @step
    async def publish(self, container: str, endpoint: EndpointSpec) -> None:
        del container
        self.world.published[endpoint.id] = endpoint

    @step
    async def unpublish(self, container: str, endpoint: str) -> None:
        del container
        self.world.published.pop(endpoint, None)

    @step
    async def rewrite_files(
        self, container: ContainerSpec, incarnation: str, networks: Mapping[str, NetworkSpec]
    ) -> None:
        del networks  # endpoints say all that is needed
        found = self.live(container.id, incarnation, "network.rewriteFiles")
        found.spec = container
        write_network_files(found.view, container)

    @step
    async def reserved_subnets(self) -> Sequence[str]:
        return tuple(self.world.reserved_subnets)

    @step
    async def has_ipv6(self) -> bool:
        return self.world.ipv6
