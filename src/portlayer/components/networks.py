"""Networks: their records, and the subnets that are taken. Hosts get and lose networks by commits; those that have one
that is deleted are asked to let go of it, by keys."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress

from portlayer.components import keys
from portlayer.components.hosts import HostBook
from portlayer.components.making import Making
from portlayer.components.records import decode, decode_whole, event, event_puts, label_filter, put
from portlayer.components.subnets import Subnets, choose, wants_ipv6
from portlayer.components.tenants import Tenant
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.interfaces.substrate import NetworkDriver
from portlayer.model import addresses as pure
from portlayer.model import names
from portlayer.model import network as m
from portlayer.model.base import now
from portlayer.model.caller import Caller
from portlayer.model.errors import InUse, InvalidArgument, NotFound, Unavailable, Unsupported

GONE_SECONDS = 20.0


class Networks:
    """The networks of all VCHs."""

    def __init__(self, making: Making, driver: NetworkDriver, book: HostBook) -> None:
        self._making = making
        self._records = making.records
        self._store = making.records.store
        self._driver = driver
        self._book = book

    async def create(self, caller: Caller, request: m.CreateNetwork) -> m.Network:
        return await self._making.once(caller, "network", request, m.Network, self._create)

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
        known = decode_whole(Subnets, record.value) if record else Subnets()
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
        name_key = await self._making.check_name(caller.vch, "network", spec.name)
        now_taken = Subnets(taken={**known.taken, **{subnet.subnet: spec.id for subnet in subnets}}, site=site)
        quota = await self._making.quotas.claim(caller.vch, {"networks": 1}, again=True)
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

    async def page(self, caller: Caller, request: m.ListNetworks) -> m.Networks:
        labels = label_filter(request.label)
        found, after = await self._records.page(
            m.NetworkSpec,
            caller.vch,
            "networks",
            lambda spec: request.name in (None, spec.name) and labels(spec.labels),
            request.limit,
            request.after,
        )
        return m.Networks(networks=tuple([await self.counted(caller, spec) for spec in found]), next=after)

    async def counted(self, caller: Caller, spec: m.NetworkSpec) -> m.Network:
        """*spec*, with how many of its addresses are taken."""
        allocated = await self._store.count(keys.addresses(caller.vch, spec.id))
        allocated6 = await self._store.count(keys.addresses(caller.vch, spec.id, 6)) if spec.ipv6 else 0
        return _view(spec, allocated, allocated6)

    async def forget_vch(self, tenant: Tenant) -> None:
        """Delete all networks of a VCH that is being deleted. Raises InUse while it has containers."""
        for row in await self._records.left(tenant, "networks"):
            with contextlib.suppress(NotFound):
                await self.remove(tenant.record.name, decode(m.NetworkSpec, row.value))

    async def remove(self, vch: str, spec: m.NetworkSpec) -> None:
        """Delete it. Raises InUse while it has endpoints, Unavailable where a host takes long to let go of it."""
        uses = keys.uses(vch, "networks", spec.id)
        users = [keys.last(row.key) for row in await self._store.range(uses, limit=10)]
        if users:
            raise InUse(f"Network {spec.name} has endpoints.", kind="network", id=spec.name, users=users)
        hosts = [row.key for row in await self._store.range(keys.network_hosts(vch, spec.id))]
        gone = {host: f"{keys.gone('networks', host)}{spec.id}" for host in map(keys.last, hosts)}
        await self._unwrite(vch, spec, [*(Put(key, b"") for key in gone.values()), *(Delete(key) for key in hosts)])
        await self._making.failpoints.hit("network.deleted")
        there = [key for host, key in gone.items() if self._book.state(host) != "away"]  # the others do it when back
        waits = [self._records.until_gone(key, GONE_SECONDS) for key in there]
        if not all(await asyncio.gather(*waits)):
            raise Unavailable(
                f"{spec.name} is deleted, but a host has not let go of it yet; it will by itself.",
                retry_after_seconds=5,
            )

    async def _unwrite(self, vch: str, spec: m.NetworkSpec, more: list[Put | Delete]) -> None:
        """Delete its record, and give its subnets back. more: what is written with that."""
        uses, network_key = keys.uses(vch, "networks", spec.id), keys.entity(vch, "networks", spec.id)
        while True:
            subnets = await self._store.get(keys.SUBNETS)
            if subnets is None:
                return
            known = decode_whole(Subnets, subnets.value)
            left = {cidr: owner for cidr, owner in known.taken.items() if owner != spec.id}
            ops = [
                Delete(network_key),
                Delete(keys.name(vch, "networks", spec.name)),
                put(keys.SUBNETS, Subnets(taken=left, site=known.site)),
                *more,
                *event_puts(vch, event("network", "removed", spec.id, spec.name)),
            ]
            demands = Empty(uses), Check(network_key, None), Check(keys.SUBNETS, subnets.revision)
            try:
                await self._store.apply(Transaction(demands, ops))
                break
            except CheckFailed as failure:
                if uses in failure.keys:
                    raise InUse(f"Network {spec.name} has endpoints.", kind="network", id=spec.name) from None
                if network_key in failure.keys:
                    raise NotFound("The network has been removed.", kind="network", id=spec.name) from None


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
