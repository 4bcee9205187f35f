"""Addresses in the store: leased by a bind, allocated by a commit, given back by discard or in time.

Two records stand for a lease, and expire together: who has the address, and what the endpoint has reserved. The
second is keyed by the endpoint, minted at join, so that binding twice gives the same address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from portlayer.components import keys
from portlayer.components.handles import Draft
from portlayer.components.records import decode, put
from portlayer.interfaces.store import Check, CheckFailed, Delete, Put, Store, Transaction
from portlayer.model.addresses import candidates
from portlayer.model.base import Value
from portlayer.model.changes import ActivateEndpoint
from portlayer.model.errors import AlreadyExists, ResourceExhausted
from portlayer.model.execution import replace
from portlayer.model.network import EndpointSpec, NetworkSpec, Subnet

LEASE_SECONDS = 120.0
PROBES = 16
"""How many addresses are tried one by one before the whole network is read."""


class Address(Value):
    """Who has an address. Until committed the record is a lease and vanishes by itself."""

    endpoint: str
    container: str
    committed: bool = False


class Lease(Value):
    """What the binds of one endpoint have reserved; claims are the handles that may commit it."""

    network: str
    address: str
    prefix_length: int
    gateway: str
    claims: tuple[str, ...]


class Pool:
    """Leases addresses of networks. It remembers where it left off, which only saves time."""

    def __init__(self, store: Store, lease_seconds: float = LEASE_SECONDS) -> None:
        self._store = store
        self._seconds = lease_seconds
        self._next: dict[str, str] = {}

    async def lease(self, vch: str, network: NetworkSpec, endpoint: EndpointSpec, container: str, claim: str) -> Lease:
        """Reserve an address for *endpoint*, or prolong what it has, in the name of handle *claim*.

        Raises:
            ResourceExhausted: the network has no free address. AlreadyExists: the one asked for is taken.
        """
        key = keys.entity(vch, "leases", endpoint.id)
        while True:
            held = await self._store.get(key)
            if held is None:
                lease = await self._fresh(vch, network, endpoint, container, claim)
                if lease is not None:
                    return lease
                continue
            lease = decode(Lease, held.value)
            lease = replace(lease, claims=tuple(dict.fromkeys((*lease.claims, claim))))
            address = Address(endpoint=endpoint.id, container=container)
            ops = (
                put(key, lease, self._seconds),
                put(keys.address(vch, network.id, lease.address), address, self._seconds),
            )
            try:
                await self._store.apply(Transaction((Check(key, held.revision),), ops, durable=False))
            except CheckFailed:
                continue
            return lease

    async def _fresh(
        self, vch: str, network: NetworkSpec, endpoint: EndpointSpec, container: str, claim: str
    ) -> Lease | None:
        """A first lease; None where another bind of the same endpoint came first."""
        lease_key = keys.entity(vch, "leases", endpoint.id)
        taken: frozenset[str] = frozenset()
        for tries, (address, subnet) in enumerate(self._candidates(network, endpoint)):
            if tries == PROBES:
                prefix = keys.addresses(vch, network.id)
                taken = frozenset(keys.last(row.key) for row in await self._store.range(prefix))
            if address in taken:
                continue
            lease = Lease(
                network=network.id,
                address=address,
                prefix_length=int(subnet.subnet.rpartition("/")[2]),
                gateway="" if network.internal else subnet.gateway or "",
                claims=(claim,),
            )
            key = keys.address(vch, network.id, address)
            ops = (
                put(key, Address(endpoint=endpoint.id, container=container), self._seconds),
                put(lease_key, lease, self._seconds),
            )
            try:
                await self._store.apply(Transaction((Check(key, 0), Check(lease_key, 0)), ops, durable=False))
            except CheckFailed as failure:
                if lease_key in failure.keys:
                    return None
                continue
            self._next[network.id] = str(ipaddress.ip_address(address) + 1)
            return lease
        if endpoint.requested_address:
            taken_one = endpoint.requested_address
            raise AlreadyExists(f"Address {taken_one} of {network.name} is taken.", kind="address", id=taken_one)
        raise ResourceExhausted(f"Network {network.name} has no free address left.", resource="addresses")

    def _candidates(self, network: NetworkSpec, endpoint: EndpointSpec) -> Iterator[tuple[str, Subnet]]:
        if endpoint.requested_address:
            wanted = ipaddress.ip_address(endpoint.requested_address)
            for subnet in network.subnets:
                if wanted in ipaddress.ip_network(subnet.subnet):
                    yield endpoint.requested_address, subnet
            return
        for subnet in network.subnets:
            for address in candidates(subnet, self._next.get(network.id)):
                yield address, subnet

    async def give_back(self, vch: str, draft: Draft) -> None:
        """Drop the claims of *draft*; a lease ends with its last one."""
        for change in draft.changes:
            if isinstance(change, ActivateEndpoint):
                await self._drop(vch, change)

    async def _drop(self, vch: str, change: ActivateEndpoint) -> None:
        key = keys.entity(vch, "leases", change.endpoint)
        address_key = keys.address(vch, change.network, change.address)
        while True:
            held, address = await self._store.get_many([key, address_key])
            if held is None or change.claim not in (lease := decode(Lease, held.value)).claims:
                return
            left = tuple(claim for claim in lease.claims if claim != change.claim)
            checks = [Check(key, held.revision)]
            ops: list[Put | Delete] = [put(key, replace(lease, claims=left), self._seconds)]
            if not left:
                ops = [Delete(key)]
                if address is not None and decode(Address, address.value).endpoint == change.endpoint:
                    checks.append(Check(address_key, address.revision))
                    ops.append(Delete(address_key))
            try:
                await self._store.apply(Transaction(checks, ops, durable=False))
            except CheckFailed:
                continue
            return
