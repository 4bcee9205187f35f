"""Network: networks, endpoints and addresses."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Sequence

from portlayer.components import keys
from portlayer.components.addresses import Pool
from portlayer.components.drafts import Drafts, Preview
from portlayer.components.handles import NetworkPin, Stamp
from portlayer.components.hosts import HostBook
from portlayer.components.ports import Ports
from portlayer.components.quota import Quotas
from portlayer.components.records import cut, decode, event, event_puts, label_filter, put
from portlayer.components.replays import Replays
from portlayer.components.subnets import Subnets, choose, wants_ipv6
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.interfaces.substrate import NetworkDriver
from portlayer.model import addresses as pure
from portlayer.model import changes as c
from portlayer.model import names
from portlayer.model import network as m
from portlayer.model.base import now
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
from portlayer.model.limits import check_aliases
from portlayer.model.storage import HandleAnswer
from portlayer.model.views import endpoint_view, endpoint_views

GONE_SECONDS = 20.0


class LocalNetwork:
    """Implements interfaces.network.Network. Hosts get and lose networks by commits, not by this component."""

    def __init__(
        self,
        drafts: Drafts,
        pool: Pool,
        quotas: Quotas,
        ports: Ports,
        replays: Replays,
        driver: NetworkDriver,
        failpoints: Failpoints,
        book: HostBook,
    ) -> None:
        self._drafts = drafts
        self._records = drafts.records
        self._store = drafts.records.store
        self._pool = pool
        self._quotas = quotas
        self._ports = ports
        self._replays = replays
        self._driver = driver
        self._failpoints = failpoints
        self._book = book

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
        await self._records.check_vch(caller.vch)
        return await self._replays.once(caller, "network", request, m.Network, self._create)

    async def _create(self, caller: Caller, request: m.CreateNetwork) -> tuple[m.Network, list[Check], list[Put]]:
        """What to write for a new network; its subnets are reserved by the transaction that the caller runs."""
        _refuse_unsupported(request)
        asking = wants_ipv6(request)
        if asking and not any(host.ipv6 for host in self._book.all()):
            raise Unsupported(
                "No host has IPv6 (it is off in the kernel); leave ipv6 and IPv6 subnets out.",
                option="ipv6",
                pointer=asking,
            )
        record = await self._store.get(keys.SUBNETS)
        known = decode(Subnets, record.value) if record else Subnets()
        mine = await self._own_subnets(caller.vch) if request.subnets else frozenset[str]()
        subnets, site = choose(request, known, await self._reserved(), mine)
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
        now_taken = Subnets(taken={**known.taken, **{subnet.subnet: spec.id for subnet in subnets}}, site=site)
        quota = await self._quotas.claim(caller.vch, {"networks": 1}, again=True)
        checks = [Check(name_key, 0), Check(keys.SUBNETS, record.revision if record else 0), *quota.checks]
        puts = [
            put(keys.SUBNETS, now_taken),
            put(keys.entity(caller.vch, "networks", spec.id), spec),
            Put(name_key, spec.id.encode()),
            *event_puts(caller.vch, event("network", "created", spec.id, spec.name)),
            *quota.puts,
        ]
        return _view(spec, 0, 0), checks, puts

    async def _reserved(self) -> list[str]:
        """What this host, and the others, use themselves: a network may come to any of them."""
        others = [subnet for host in self._book.all() for subnet in host.subnets]
        return [*await self._driver.reserved_subnets(), *others]

    async def _own_subnets(self, vch: str) -> frozenset[str]:
        rows = await self._store.range(keys.entities(vch, "networks"))
        return frozenset(one.subnet for row in rows for one in decode(m.NetworkSpec, row.value).subnets)

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
        return m.Networks(networks=tuple([await self._counted(caller, spec) for spec in found]), next=after)

    async def get_network(self, caller: Caller, request: m.NetworkRef) -> m.Network:
        spec = await self._find(caller, request.ref)
        return await self._counted(caller, spec)

    async def _counted(self, caller: Caller, spec: m.NetworkSpec) -> m.Network:
        allocated = await self._store.count(keys.addresses(caller.vch, spec.id))
        allocated6 = await self._store.count(keys.addresses(caller.vch, spec.id, 6)) if spec.ipv6 else 0
        return _view(spec, allocated, allocated6)

    async def delete_network(self, caller: Caller, request: m.NetworkRef) -> None:
        await self._delete(caller.vch, await self._find(caller, request.ref))

    async def forget_vch(self, vch: str) -> None:
        """Delete all networks of a VCH that is being deleted. Raises InUse while it has containers."""
        for row in await self._store.range(keys.entities(vch, "networks")):
            with contextlib.suppress(NotFound):
                await self._delete(vch, decode(m.NetworkSpec, row.value))

    async def _delete(self, vch: str, spec: m.NetworkSpec) -> None:
        uses = keys.uses(vch, "networks", spec.id)
        users = [keys.last(row.key) for row in await self._store.range(uses, limit=10)]
        if users:
            raise InUse(f"Network {spec.name} has endpoints.", kind="network", id=spec.name, users=users)
        hosts = await self._store.range(keys.network_hosts(vch, spec.id))
        gone = {host: f"{keys.gone('networks', host)}{spec.id}" for host in map(keys.last, (row.key for row in hosts))}
        while True:
            subnets = await self._store.get(keys.SUBNETS)
            if subnets is None:
                return
            known = decode(Subnets, subnets.value)
            left = {cidr: owner for cidr, owner in known.taken.items() if owner != spec.id}
            network_key = keys.entity(vch, "networks", spec.id)
            try:
                await self._store.apply(
                    Transaction(
                        (Empty(uses), Check(network_key, None), Check(keys.SUBNETS, subnets.revision)),
                        (
                            Delete(network_key),
                            Delete(keys.name(vch, "networks", spec.name)),
                            put(keys.SUBNETS, Subnets(taken=left, site=known.site)),
                            *(Put(key, b"") for key in gone.values()),
                            *(Delete(row.key) for row in hosts),
                            *event_puts(vch, event("network", "removed", spec.id, spec.name)),
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
        there = [key for host, key in gone.items() if self._book.state(host) != "away"]  # the others do it when back
        waits = [self._records.until_gone(key, GONE_SECONDS) for key in there]
        if not all(await asyncio.gather(*waits)):
            raise Unavailable(
                f"{spec.name} is deleted, but a host has not let go of it yet; it will by itself.",
                retry_after_seconds=5,
            )

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


def _view(spec: m.NetworkSpec, allocated: int, allocated6: int) -> m.Network:
    free, free6 = (
        max(0, pure.capacity(pure.of_version(spec.subnets, version)) - count)
        for version, count in ((4, allocated), (6, allocated6))
    )
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
        free_addresses=free,
        ipv6=spec.ipv6,
        allocated_addresses6=allocated6 if spec.ipv6 else None,
        free_addresses6=min(free6, m.COUNTABLE) if spec.ipv6 else None,
    )


def _refuse_unsupported(request: m.CreateNetwork) -> None:
    if request.type != "bridge":
        raise Unsupported(
            f"Networks of type {request.type} are not offered; use bridge.", option="type", pointer="/type"
        )
    if request.options:
        option = next(iter(request.options))
        raise Unsupported(f"There is no network option {option!r}.", option=option, pointer="/options")


def _check_server(text: str, pointer: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InvalidArgument(f"{text[:60]!r} is no IP address.", pointer=pointer) from None


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
