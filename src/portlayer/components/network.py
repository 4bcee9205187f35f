"""Network: networks, endpoints and addresses."""

from __future__ import annotations

from collections.abc import Sequence

from portlayer.components import keys
from portlayer.components.addresses import Pool
from portlayer.components.drafts import Drafts, Preview
from portlayer.components.handles import NetworkPin, Stamp
from portlayer.components.hosts import HostBook
from portlayer.components.making import Making
from portlayer.components.networks import Networks
from portlayer.components.ports import Ports
from portlayer.components.records import cut, decode
from portlayer.components.tenants import Tenant
from portlayer.interfaces.substrate import NetworkDriver
from portlayer.model import addresses as pure
from portlayer.model import changes as c
from portlayer.model import names
from portlayer.model import network as m
from portlayer.model.caller import Caller
from portlayer.model.errors import (
    HandleInvalid,
    InvalidArgument,
    NotFound,
)
from portlayer.model.execution import ContainerRecord
from portlayer.model.limits import check_aliases
from portlayer.model.storage import HandleAnswer
from portlayer.model.views import endpoint_view, endpoint_views


class LocalNetwork:
    """Implements interfaces.network.Network. Hosts get and lose networks by commits, not by this component."""

    def __init__(
        self,
        drafts: Drafts,
        making: Making,
        pool: Pool,
        ports: Ports,
        driver: NetworkDriver,
        book: HostBook,
    ) -> None:
        self._drafts = drafts
        self._records = drafts.records
        self._store = drafts.records.store
        self._pool = pool
        self._ports = ports
        self._networks = Networks(making, driver, book)

    # mutations

    async def join(self, caller: Caller, request: m.JoinNetwork) -> m.JoinedNetwork:
        preview = await self._drafts.open(caller, request.handle)
        network = await self._find_named(caller, request.network)
        ident = names.new_id()
        endpoint = m.EndpointSpec(
            id=ident,
            network=network.id,
            network_name=network.name,
            mac_address=pure.check_mac(request.mac_address) if request.mac_address is not None else pure.mac_of(ident),
            requested_address=_check_address(network, request),
            requested_address6=_check_address6(network, request),
            aliases=check_aliases(request.aliases),
            ports=await self._ports.choose(preview.spec.host, network, request.ports),
        )
        handle = self._drafts.seal(preview, c.AddEndpoint(endpoint=endpoint))
        return m.JoinedNetwork(handle=handle, endpoint_id=ident)

    async def bind(self, caller: Caller, request: m.BindNetwork) -> m.BoundNetwork:
        preview = await self._drafts.open(caller, request.handle)
        claim = names.new_id()
        changes: list[c.AnyChange] = []
        for endpoint in await self._chosen(caller, preview, request.network):
            if endpoint.bound:
                continue
            network = await self._find(caller, endpoint.network)
            committed = preview.record.spec.endpoints.get(network.id) if preview.record else None
            own = committed.addresses if committed is not None else ()
            lease = await self._pool.lease(caller.vch, network, endpoint, preview.spec.id, claim, own)
            changes.append(
                c.ActivateEndpoint(
                    network=network.id,
                    endpoint=endpoint.id,
                    address=lease.address,
                    prefix_length=lease.prefix_length,
                    gateway=lease.gateway,
                    claim=claim,
                    address6=lease.address6,
                    prefix_length6=lease.prefix_length6,
                    gateway6=lease.gateway6,
                )
            )
        return self._answer(preview, changes, claim)

    async def unbind(self, caller: Caller, request: m.BindNetwork) -> m.BoundNetwork:
        preview = await self._drafts.open(caller, request.handle)
        chosen = await self._chosen(caller, preview, request.network)
        changes = [c.DeactivateEndpoint(network=endpoint.network) for endpoint in chosen if endpoint.bound]
        return self._answer(preview, changes, names.new_id())

    async def leave(self, caller: Caller, request: m.LeaveNetwork) -> HandleAnswer:
        preview = await self._drafts.open(caller, request.handle)
        endpoint = (await self._chosen(caller, preview, request.network))[0]
        return HandleAnswer(handle=self._drafts.seal(preview, c.RemoveEndpoint(network=endpoint.network)))

    async def _chosen(self, caller: Caller, preview: Preview, ref: str | None) -> list[m.EndpointSpec]:
        """The joined endpoints that *ref* means: all where it is None."""
        endpoints = preview.spec.endpoints
        if ref is None:
            return list(endpoints.values())
        network = await self._find_named(caller, ref)
        if network.id not in endpoints:
            raise NotFound(
                f"{preview.spec.name} is not in network {network.name}; join it first.",
                kind="endpoint",
                id=network.name,
            )
        return [endpoints[network.id]]

    def _answer(self, preview: Preview, changes: Sequence[c.AnyChange], ident: str) -> m.BoundNetwork:
        spec = c.fold(preview.spec, changes)
        return m.BoundNetwork(handle=self._drafts.seal(preview, *changes, ident=ident), endpoints=endpoint_views(spec))

    # networks

    async def create_network(self, caller: Caller, request: m.CreateNetwork) -> m.Network:
        return await self._networks.create(caller, request)

    async def list_networks(self, caller: Caller, request: m.ListNetworks) -> m.Networks:
        return await self._networks.page(caller, request)

    async def get_network(self, caller: Caller, request: m.NetworkRef) -> m.Network:
        return await self._networks.counted(caller, await self._find(caller, request.ref))

    async def delete_network(self, caller: Caller, request: m.NetworkRef) -> None:
        await self._networks.remove(caller.vch, await self._find(caller, request.ref))

    async def forget_vch(self, tenant: Tenant) -> None:
        """Delete all networks of a VCH that is being deleted. Raises InUse while it has containers."""
        await self._networks.forget_vch(tenant)

    async def handle(self, caller: Caller, request: m.NetworkRef) -> m.NetworkHandle:
        spec = await self._find(caller, request.ref)
        tenant = await self._records.check_vch(caller.vch)
        pin = NetworkPin(id=names.new_id(), issued=Stamp.now(), vch=tenant.id, network=spec.id)
        return m.NetworkHandle(handle=await self._drafts.sealer.mint_network(pin), id=spec.id)

    async def network_endpoints(self, caller: Caller, request: m.ListEndpoints) -> m.Endpoints:
        spec = await self._find(caller, request.ref)
        rows = await self._store.range(keys.uses(caller.vch, "networks", spec.id))
        wanted = [keys.entity(caller.vch, "containers", keys.last(row.key)) for row in rows]
        records = [decode(ContainerRecord, row.value) for row in await self._store.get_many(wanted) if row]
        found = tuple(
            endpoint_view(record.spec.endpoints[spec.id], record.spec.id)
            for record in records
            if spec.id in record.spec.endpoints
        )
        page, after = cut(found, lambda endpoint: endpoint.id, request.limit, request.after)
        return m.Endpoints(endpoints=page, next=after)

    async def container_endpoints(self, caller: Caller, request: m.ListEndpoints) -> m.Endpoints:
        record, _ = await self._records.find_container(caller.vch, request.ref)
        views = endpoint_views(record.spec)
        page, after = cut(views, lambda endpoint: endpoint.id, request.limit, request.after)
        return m.Endpoints(endpoints=page, next=after)

    async def _find(self, caller: Caller, ref: str, pointer: str = "/ref") -> m.NetworkSpec:
        """By name or id."""
        return await self._records.find(m.NetworkSpec, caller.vch, "networks", ref, pointer)

    async def _find_named(self, caller: Caller, ref: str) -> m.NetworkSpec:
        """The network that a body names: by name, id or network handle."""
        if len(ref) > 64 and "." not in ref:
            try:
                pin = await self._drafts.sealer.open_network((await self._records.check_vch(caller.vch)).id, ref)
            except HandleInvalid:
                if len(ref) > 128:
                    raise
            else:
                ref = pin.network
        return await self._find(caller, ref, "/network")


def _check_address(network: m.NetworkSpec, request: m.JoinNetwork) -> str:
    if request.address is None:
        return ""
    return pure.check_address(request.address, pure.of_version(network.subnets, 4))[0]


def _check_address6(network: m.NetworkSpec, request: m.JoinNetwork) -> str:
    if request.address6 is None:
        return ""
    if not network.ipv6:
        raise InvalidArgument(f"Network {network.name} has no IPv6; leave address6 out.", pointer="/address6")
    return pure.check_address(request.address6, pure.of_version(network.subnets, 6), "/address6")[0]
