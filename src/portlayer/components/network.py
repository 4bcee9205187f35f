"""Network: networks, endpoints and addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Sequence

from portlayer.components import keys
from portlayer.components.addresses import Pool
from portlayer.components.drafts import Drafts, Preview
from portlayer.components.handles import NetworkPin
from portlayer.components.ports import Ports
from portlayer.components.records import cut, decode, event, event_puts, label_filter, put
from portlayer.components.replays import Replays
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.interfaces.substrate import NetworkDriver
from portlayer.model import addresses as pure
from portlayer.model import changes as c
from portlayer.model import names
from portlayer.model import network as m
from portlayer.model.base import Value, now
from portlayer.model.caller import Caller
from portlayer.model.errors import (
    AlreadyExists,
    HandleInvalid,
    InUse,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unsupported,
)
from portlayer.model.execution import ContainerRecord
from portlayer.model.storage import HandleAnswer
from portlayer.model.views import endpoint_view, endpoint_views

GONE_SECONDS = 20.0
MIN_MTU, MAX_MTU = 576, 65535


class Subnets(Value):
    """Which CIDR belongs to which network, over all tenants of the substrate."""

    taken: dict[str, str] = {}


class LocalNetwork:
    """Implements interfaces.network.Network. Hosts get and lose networks by commits, not by this component."""

    def __init__(
        self, drafts: Drafts, pool: Pool, ports: Ports, replays: Replays, driver: NetworkDriver, failpoints: Failpoints
    ) -> None:
        self._drafts = drafts
        self._records = drafts.records
        self._store = drafts.records.store
        self._pool = pool
        self._ports = ports
        self._replays = replays
        self._driver = driver
        self._failpoints = failpoints

    # mutations

    async def join(self, caller: Caller, request: m.JoinNetwork) -> m.JoinedNetwork:
        preview = await self._drafts.open(caller, request.handle)
        network = await self._find_named(caller, request.network)
        ident = names.new_id()
        endpoint = m.EndpointSpec(
            id=ident,
            network=network.id,
            network_name=network.name,
            mac_address=pure.check_mac(request.mac_address) if request.mac_address else pure.mac_of(ident),
            requested_address=_check_address(network, request),
            aliases=_check_aliases(request.aliases),
            ports=await self._ports.choose(network, request.ports),
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
            lease = await self._pool.lease(caller.vch, network, endpoint, preview.spec.id, claim)
            changes.append(
                c.ActivateEndpoint(
                    network=network.id,
                    endpoint=endpoint.id,
                    address=lease.address,
                    prefix_length=lease.prefix_length,
                    gateway=lease.gateway,
                    claim=claim,
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
        await self._records.check_vch(caller.vch)
        return await self._replays.once(caller, "network", request, m.Network, self._create)

    async def _create(self, caller: Caller, request: m.CreateNetwork) -> tuple[m.Network, list[Check], list[Put]]:
        """What to write for a new network; its subnets are reserved by the transaction that the caller runs."""
        _refuse_unsupported(request)
        record = await self._store.get(keys.SUBNETS)
        taken = decode(Subnets, record.value).taken if record else {}
        subnets = await self._subnets(request, taken)
        spec = m.NetworkSpec(
            id=names.new_id(),
            name=names.check_name(request.name),
            type=request.type,
            subnets=subnets,
            dns=tuple(_check_server(server, f"/dns/{index}") for index, server in enumerate(request.dns)),
            internal=request.internal,
            mtu=request.mtu,
            labels=names.check_labels(request.labels),
            created_at=now(),
        )
        name_key = keys.name(caller.vch, "networks", spec.name)
        if await self._store.get(name_key) is not None:
            raise AlreadyExists(f"A network called {spec.name} is there already.", kind="network", id=spec.name)
        now_taken = Subnets(taken={**taken, **{subnet.subnet: spec.id for subnet in subnets}})
        checks = [Check(name_key, 0), Check(keys.SUBNETS, record.revision if record else 0)]
        puts = [
            put(keys.SUBNETS, now_taken),
            put(keys.entity(caller.vch, "networks", spec.id), spec),
            Put(name_key, spec.id.encode()),
            *event_puts(caller.vch, event("network", "created", spec.id, spec.name)),
        ]
        return _view(spec, 0), checks, puts

    async def _subnets(self, request: m.CreateNetwork, taken: dict[str, str]) -> tuple[m.Subnet, ...]:
        reserved = await self._driver.reserved_subnets()
        if not request.subnets:
            chosen = pure.choose_subnet([*taken, *reserved])
            return (pure.complete(m.Subnet(subnet=chosen)),)
        checked: list[m.Subnet] = []
        for index, asked in enumerate(request.subnets):
            subnet = pure.complete(asked, f"/subnets/{index}")
            for other in (*taken, *reserved, *(earlier.subnet for earlier in checked)):
                if pure.overlaps(subnet.subnet, other):
                    raise AlreadyExists(
                        f"Subnet {subnet.subnet} overlaps {other}, which is in use; choose another, or none.",
                        kind="subnet",
                        id=other,
                    )
            checked.append(subnet)
        return tuple(checked)

    async def list_networks(self, caller: Caller, request: m.ListNetworks) -> m.Networks:
        labels = label_filter(request.label)
        found, after = await self._records.page(
            m.NetworkSpec,
            caller.vch,
            "networks",
            lambda spec: request.name in (None, spec.name) and labels(spec.labels),
            request.limit,
            request.after,
        )
        counts = [await self._store.count(keys.addresses(caller.vch, spec.id)) for spec in found]
        views = tuple(_view(spec, count) for spec, count in zip(found, counts, strict=True))
        return m.Networks(networks=views, next=after)

    async def get_network(self, caller: Caller, request: m.NetworkRef) -> m.Network:
        spec = await self._find(caller, request.ref)
        return _view(spec, await self._store.count(keys.addresses(caller.vch, spec.id)))

    async def delete_network(self, caller: Caller, request: m.NetworkRef) -> None:
        spec = await self._find(caller, request.ref)
        uses = keys.uses(caller.vch, "networks", spec.id)
        users = [keys.last(row.key) for row in await self._store.range(uses, limit=10)]
        if users:
            raise InUse(f"Network {spec.name} has endpoints.", kind="network", id=spec.name, users=users)
        hosts = await self._store.range(keys.network_hosts(caller.vch, spec.id))
        gone = [f"{keys.gone_networks(keys.last(row.key))}{spec.id}" for row in hosts]
        while True:
            subnets = await self._store.get(keys.SUBNETS)
            if subnets is None:
                return
            left = {cidr: owner for cidr, owner in decode(Subnets, subnets.value).taken.items() if owner != spec.id}
            network_key = keys.entity(caller.vch, "networks", spec.id)
            try:
                await self._store.apply(
                    Transaction(
                        (Empty(uses), Check(network_key, None), Check(keys.SUBNETS, subnets.revision)),
                        (
                            Delete(network_key),
                            Delete(keys.name(caller.vch, "networks", spec.name)),
                            put(keys.SUBNETS, Subnets(taken=left)),
                            *(Put(key, b"") for key in gone),
                            *(Delete(row.key) for row in hosts),
                            *event_puts(caller.vch, event("network", "removed", spec.id, spec.name)),
                        ),
                    )
                )
                break
            except CheckFailed as failure:
                if uses in failure.keys:
                    raise InUse(f"Network {spec.name} has endpoints.", kind="network", id=spec.name) from None
                if network_key in failure.keys:
                    raise NotFound("The network has been removed.", kind="network", id=spec.name) from None
        await self._failpoints.hit("network.deleted")
        waits = [self._records.until_gone(key, GONE_SECONDS) for key in gone]
        if not all(await asyncio.gather(*waits)):
            raise Unavailable(
                f"{spec.name} is deleted, but a host has not let go of it yet; it will by itself.",
                retry_after_seconds=5,
            )

    async def handle(self, caller: Caller, request: m.NetworkRef) -> m.NetworkHandle:
        spec = await self._find(caller, request.ref)
        pin = NetworkPin(id=names.new_id(), issued=time.time(), vch=caller.vch, network=spec.id)
        return m.NetworkHandle(handle=self._drafts.sealer.seal_network(pin), id=spec.id)

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
                pin = self._drafts.sealer.open_network(caller.vch, ref)
            except HandleInvalid:
                if len(ref) > 128:
                    raise
            else:
                ref = pin.network
        return await self._find(caller, ref, "/network")


def _view(spec: m.NetworkSpec, allocated: int) -> m.Network:
    return m.Network(
        id=spec.id,
        name=spec.name,
        type=spec.type,
        subnets=spec.subnets,
        dns=spec.dns,
        internal=spec.internal,
        mtu=spec.mtu,
        labels=spec.labels,
        created_at=spec.created_at,
        allocated_addresses=allocated,
        free_addresses=max(0, pure.capacity(spec.subnets) - allocated),
    )


def _refuse_unsupported(request: m.CreateNetwork) -> None:
    if request.type != "bridge":
        raise Unsupported(
            f"Networks of type {request.type} are not offered; use bridge.", option="type", pointer="/type"
        )
    if request.ipv6:
        raise Unsupported("IPv6 networks are not offered.", option="ipv6", pointer="/ipv6")
    if request.options:
        option = next(iter(request.options))
        raise Unsupported(f"There is no network option {option!r}.", option=option, pointer="/options")
    if not MIN_MTU <= request.mtu <= MAX_MTU:
        raise InvalidArgument(f"mtu must be between {MIN_MTU} and {MAX_MTU}.", pointer="/mtu")


def _check_server(text: str, pointer: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InvalidArgument(f"{text[:60]!r} is no IP address.", pointer=pointer) from None


def _check_address(network: m.NetworkSpec, request: m.JoinNetwork) -> str:
    if request.address6 is not None:
        raise Unsupported("IPv6 addresses are not offered.", option="address6", pointer="/address6")
    if request.address is None:
        return ""
    return pure.check_address(request.address, network.subnets)[0]


def _check_aliases(aliases: tuple[str, ...]) -> tuple[str, ...]:
    if aliases:
        raise Unsupported(
            "Names of other containers are not resolved yet; leave aliases out.", option="aliases", pointer="/aliases"
        )
    return aliases
