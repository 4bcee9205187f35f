"""Addresses in the store: leased by a bind, allocated by a commit, given back by discard or in time.

Two records stand for a lease, and expire together: who has the address, and what the endpoint has reserved. The
second is keyed by the endpoint, minted at join, so that binding twice gives the same address. In a network with IPv6
there is a third, who has that address: all or none of them are made, in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from portlayer.components import keys
from portlayer.components.handles import Draft
from portlayer.components.quota import Quotas
from portlayer.components.records import decode, decode_whole, put
from portlayer.interfaces.store import Check, CheckFailed, Delete, Put, Record, Store, Transaction
from portlayer.model.addresses import after, candidates, of_version, prefix_length, subnet_of
from portlayer.model.base import Value
from portlayer.model.changes import ActivateEndpoint
from portlayer.model.errors import AlreadyExists, ResourceExhausted
from portlayer.model.execution import replace
from portlayer.model.network import EndpointSpec, NetworkSpec, Subnet

LEASE_SECONDS = 120.0
MOST_CLAIMS = 100
"""How many handles of one endpoint are known apart. With more, a lease ends with its time alone: who binds without end
makes no record that grows."""
PROBES = 16
"""How many addresses are tried one by one before the whole network is read."""


class Address(Value):
    """Who has an address. Until committed the record is a lease and vanishes by itself."""

    endpoint: str
    container: str
    committed: bool = False


class Lease(Value):
    """What the binds of one endpoint have reserved; claims are the handles that may commit it, none where they are more
    than are known apart. What ends in 6 is empty in a network without IPv6."""

    network: str
    address: str
    prefix_length: int
    gateway: str
    claims: tuple[str, ...]
    address6: str = ""
    prefix_length6: int = 0
    gateway6: str = ""
    own: tuple[str, ...] = ()

    @property
    def reserved(self) -> tuple[str, ...]:
        """Those that the lease keeps from others; `own` are kept by what the container has."""
        return tuple(address for address in self.addresses if address not in self.own)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(address for address in (self.address, self.address6) if address)

    def claimed(self, claim: str) -> Lease:
        """It, with one handle more."""
        many = not self.claims or len(self.claims) >= MOST_CLAIMS
        return replace(self, claims=() if many else (*self.claims, claim))


class _Held(NamedTuple):
    """A lease in the store. rows: of the addresses that are still reserved by it."""

    record: Record
    lease: Lease
    rows: list[Record]

    @property
    def is_whole(self) -> bool:
        """Whether none of them has run out before it: another endpoint may have that one now."""
        return len(self.rows) == len(self.lease.reserved)

    @property
    def checks(self) -> list[Check]:
        return [Check(row.key, row.revision) for row in (self.record, *self.rows)]

    def prolonged(self, lease: Lease, seconds: float) -> list[Put | Delete]:
        """It, as *lease* says now, and its addresses: they go on to expire together."""
        return [put(self.record.key, lease, seconds), *(Put(row.key, row.value, seconds) for row in self.rows)]

    def ended(self) -> list[Put | Delete]:
        return [Delete(row.key) for row in (self.record, *self.rows)]


class Pool:
    """Leases addresses of networks. It remembers where it left off, which only saves time."""

    def __init__(self, store: Store, quotas: Quotas, lease_seconds: float = LEASE_SECONDS) -> None:
        self._store = store
        self._quotas = quotas
        self._seconds = lease_seconds
        self._next: dict[tuple[str, int], str] = {}

    async def lease(
        self,
        vch: str,
        network: NetworkSpec,
        endpoint: EndpointSpec,
        container: str,
        claim: str,
        own: Collection[str] = (),
    ) -> Lease:
        """Reserve an address for *endpoint* and, where *network* has IPv6, one of each kind; or prolong what it has. In
        the name of handle *claim*. own: addresses that *container* has and the handle lets go; nobody else can want
        them before the commit, and they need no lease.

        Raises:
            ResourceExhausted: the network has no free address, or the VCH's quota of them is used up. AlreadyExists:
            the one asked for is taken. Nothing is reserved then, of either kind.
        """
        while True:
            held = await self._held(vch, endpoint.id)
            if held is None:
                async with self._quotas.turn(vch, "addresses"):
                    lease = await self._fresh(vch, network, endpoint, container, claim, own)
                if lease is not None:
                    return lease
                continue
            lease = held.lease.claimed(claim)
            ops = held.prolonged(lease, self._seconds) if held.is_whole else held.ended()
            try:
                await self._store.apply(Transaction(held.checks, ops, durable=False))
            except CheckFailed:
                continue
            if held.is_whole:
                return lease

    async def _held(self, vch: str, endpoint: str) -> _Held | None:
        """What *endpoint* has reserved."""
        record = await self._store.get(keys.entity(vch, "leases", endpoint))
        if record is None:
            return None
        lease = decode_whole(Lease, record.value)
        rows = await self._store.get_many([keys.address(vch, lease.network, text) for text in lease.reserved])
        mine = [row for row in rows if row is not None and _is_leased(decode(Address, row.value), endpoint)]
        return _Held(record, lease, mine)

    async def _fresh(
        self,
        vch: str,
        network: NetworkSpec,
        endpoint: EndpointSpec,
        container: str,
        claim: str,
        own: Collection[str],
    ) -> Lease | None:
        """A first lease; None where another bind of the same endpoint came first."""
        lease_key = keys.entity(vch, "leases", endpoint.id)
        versions = (4, 6) if network.ipv6 else (4,)
        searches = [
            _Search(self._store, vch, network, endpoint, version, self._next.get((network.id, version)), own)
            for version in versions
        ]
        picks = [await search.next() for search in searches]
        again = False
        while True:
            lease = _lease(network, claim, *picks)
            lease = replace(lease, own=tuple(text for text in lease.addresses if text in own))
            address_keys = [keys.address(vch, network.id, address) for address in lease.addresses]
            address = Address(endpoint=endpoint.id, container=container)
            reserved = [keys.address(vch, network.id, text) for text in lease.reserved]
            quota = await self._quotas.claim(vch, {"addresses": len(reserved)}, again=again)
            leased = (*(put(key, address, self._seconds) for key in reserved), put(lease_key, lease, self._seconds))
            ops = (*leased, *quota.puts)
            checks = (*(Check(key, 0) for key in (*reserved, lease_key)), *quota.checks)
            try:
                await self._store.apply(Transaction(checks, ops, durable=False))
            except CheckFailed as failure:
                if lease_key in failure.keys:
                    return None
                again = bool(failure.keys & quota.keys)
                for place, key in enumerate(address_keys):
                    if key in failure.keys:
                        picks[place] = await searches[place].next()
                continue
            for version, (text, _) in zip(versions, picks, strict=True):
                self._next[network.id, version] = after(text)
            return lease

    async def give_back(self, vch: str, draft: Draft) -> None:
        """Drop the claims of *draft*; a lease ends with its last one."""
        for change in draft.changes:
            if isinstance(change, ActivateEndpoint):
                await self._drop(vch, change)

    async def _drop(self, vch: str, change: ActivateEndpoint) -> None:
        while True:
            held = await self._held(vch, change.endpoint)
            if held is None or change.claim not in held.lease.claims:
                return
            left = tuple(claim for claim in held.lease.claims if claim != change.claim)
            goes_on = left and held.is_whole
            ops = held.prolonged(replace(held.lease, claims=left), self._seconds) if goes_on else held.ended()
            try:
                await self._store.apply(Transaction(held.checks, ops, durable=False))
            except CheckFailed:
                continue
            return


def _is_leased(address: Address, endpoint: str) -> bool:
    return address.endpoint == endpoint and not address.committed


class _Search:
    """Looks for an address of one kind, from *start* on and around: each `next` is one that may be free."""

    def __init__(
        self,
        store: Store,
        vch: str,
        network: NetworkSpec,
        endpoint: EndpointSpec,
        version: int,
        start: str | None,
        own: Collection[str],
    ) -> None:
        self._store = store
        self._own = own
        self._network = network
        self._prefix = keys.addresses(vch, network.id, version)
        self._kind = "IPv6 address" if version == 6 else "address"
        self._asked = endpoint.requested_address6 if version == 6 else endpoint.requested_address
        self._tries = 0
        self._taken: frozenset[str] = frozenset()
        subnets = of_version(network.subnets, version)
        if self._asked:
            self._left: Iterator[tuple[str, Subnet]] = iter([(self._asked, subnet_of(self._asked, subnets))])
        else:
            self._left = ((address, subnet) for subnet in subnets for address in candidates(subnet, start))

    async def next(self) -> tuple[str, Subnet]:
        """It and its subnet. Raises ResourceExhausted, or AlreadyExists where one was asked for."""
        for address, subnet in self._left:
            if self._tries == PROBES:
                rows = await self._store.range(self._prefix)
                self._taken = frozenset(keys.last(row.key) for row in rows).difference(self._own)
            self._tries += 1
            if address not in self._taken:
                return address, subnet
        name = self._network.name
        if self._asked:
            raise AlreadyExists(f"Address {self._asked} of {name} is taken.", kind="address", id=self._asked)
        raise ResourceExhausted(f"Network {name} has no free {self._kind} left.", resource="addresses")


def _lease(
    network: NetworkSpec, claim: str, pick: tuple[str, Subnet], pick6: tuple[str, Subnet] | None = None
) -> Lease:
    """The lease of an address, or of two, each with its subnet."""

    def gateway(subnet: Subnet) -> str:
        return "" if network.internal else subnet.gateway or ""

    address, subnet = pick
    lease = Lease(
        network=network.id,
        address=address,
        prefix_length=prefix_length(subnet),
        gateway=gateway(subnet),
        claims=(claim,),
    )
    if pick6 is None:
        return lease
    address6, subnet6 = pick6
    return replace(lease, address6=address6, prefix_length6=prefix_length(subnet6), gateway6=gateway(subnet6))
