"""Network: networks, endpoints, addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from portlayer.client.component import PAGE, Component, pages
from portlayer.client.handles import BoundHandle, ContainerHandle, JoinedHandle, NetworkHandle, Ref, container_ref
from portlayer.client.options import JoinOptions
from portlayer.client.steps import Steps
from portlayer.model import network as m


class Network(Component):
    """Joined is recorded, bound is active: a container has an address in a network once its endpoint is bound."""

    async def get_network(self, ref: str) -> NetworkHandle:
        """A handle to a network, by name or id. Raises NotFound."""
        answer = await self._components.network.handle(self._caller, m.NetworkRef(ref=ref))
        return NetworkHandle(answer.id, answer.handle)

    async def join(
        self, container: ContainerHandle, network: NetworkHandle | str, **options: Unpack[JoinOptions]
    ) -> JoinedHandle:
        """Stage an endpoint. Raises AlreadyExists: there is one in this network already."""
        answer = await self._answer(Steps(container).join_network(network, **options))
        return JoinedHandle(container.id, answer.handle, answer.endpoint_id)

    async def bind(self, container: ContainerHandle, network: str | None = None) -> BoundHandle:
        """Lease addresses for the endpoints, or for the one in *network*; commit makes them the container's.

        Raises ResourceExhausted: out of addresses. AlreadyExists: the one that was asked for is taken.
        """
        answer = await self._answer(Steps(container).bind_network(network))
        return BoundHandle(container.id, answer.handle, answer.endpoints)

    async def unbind(self, container: ContainerHandle, network: str | None = None) -> BoundHandle:
        """Stage that the endpoints, or the one in *network*, have no address any more; they stay joined."""
        answer = await self._answer(Steps(container).unbind_network(network))
        return BoundHandle(container.id, answer.handle, answer.endpoints)

    async def leave(self, container: ContainerHandle, network: str) -> ContainerHandle:
        """Stage that the endpoint in *network* goes."""
        return await self._stage(Steps(container).leave_network(network))

    async def create_network(
        self,
        name: str,
        *,
        subnets: Sequence[str | m.Subnet] = (),
        dns: Sequence[str] = (),
        internal: bool = False,
        ipv6: bool = False,
        mtu: int = 1500,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> m.Network:
        """A bridge network, at once. subnets: as `10.1.2.0/24`; without, a free one is chosen. internal: no way out.
        ipv6: containers get an IPv6 address as well; without an IPv6 subnet, a free one is chosen of that too."""
        request = m.CreateNetwork(
            name=name,
            subnets=tuple(m.Subnet(subnet=each) if isinstance(each, str) else each for each in subnets),
            dns=tuple(dns),
            internal=internal,
            ipv6=ipv6,
            mtu=mtu,
            labels=dict(labels or {}),
        )
        return await self._components.network.create_network(self._creating(idempotency_key), request)

    async def list(self, *, name: str | None = None, labels: Sequence[str] = ()) -> tuple[m.Network, ...]:
        """All networks, by id. labels: filters `key` or `key=value`, all of which must hold."""

        async def ask(after: str | None) -> m.Networks:
            request = m.ListNetworks(name=name, label=tuple(labels), limit=PAGE, after=after)
            return await self._components.network.list_networks(self._caller, request)

        return tuple([network async for page in pages(ask) for network in page.networks])

    async def inspect_network(self, ref: str) -> m.Network:
        """A network with the counts of its addresses. Raises NotFound."""
        return await self._components.network.get_network(self._caller, m.NetworkRef(ref=ref))

    async def remove(self, ref: str) -> None:
        """Remove a network. Raises InUse while it has endpoints."""
        await self._components.network.delete_network(self._caller, m.NetworkRef(ref=ref))

    async def network_endpoints(self, ref: str) -> tuple[m.Endpoint, ...]:
        """The committed endpoints in a network."""

        async def ask(after: str | None) -> m.Endpoints:
            request = m.ListEndpoints(ref=ref, limit=PAGE, after=after)
            return await self._components.network.network_endpoints(self._caller, request)

        return tuple([endpoint async for page in pages(ask) for endpoint in page.endpoints])

    async def container_endpoints(self, ref: Ref) -> tuple[m.Endpoint, ...]:
        """The committed endpoints of a container."""

        async def ask(after: str | None) -> m.Endpoints:
            request = m.ListEndpoints(ref=container_ref(ref), limit=PAGE, after=after)
            return await self._components.network.container_endpoints(self._caller, request)

        return tuple([endpoint async for page in pages(ask) for endpoint in page.endpoints])
