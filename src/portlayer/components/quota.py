"""Quotas: what a VCH has is counted where it stands, and nobody takes anything while another counts.

There are no counters, so none can be wrong. What has a limit has a key of its own (`/quota/<resource>`), which is
written by every transaction that takes of it. Whoever wants to take

    1. reads that key's revision,
    2. counts what the records say,
    3. takes, if the key is still at that revision, and writes it.

If another has taken in between, the third step fails, and the count is made again. What is given back, expires, or is
undone by whomever after a crash needs no bookkeeping at all: it only makes the count an upper bound. A VCH without a
limit on what is taken has no such key and counts nothing; the check of the VCH's record (see tenants.py) says that this
is still so when the transaction lands, so a limit may be set at any time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

import msgspec

from portlayer.components import keys
from portlayer.components.footprint import NAMES, Footprint, KeptLayer, Room, exhausted
from portlayer.components.locks import Locks
from portlayer.components.tenants import Tenants
from portlayer.interfaces.store import Check, Put, Store
from portlayer.model.errors import InvalidArgument, ResourceExhausted
from portlayer.model.service import Quota

NO_QUOTA = Quota()
MAX_LIMIT = 1 << 60
CPU_DIGITS = 6
Count = Callable[[], Awaitable[tuple[float, float]]]
"""What is used, and what is asked for beside it; both of the time after the key was read."""


class _Resources(msgspec.Struct, rename="camel"):
    cpus: float | None = None
    memory_bytes: int | None = None


class _Spec(msgspec.Struct):
    id: str
    resources: _Resources


class _Container(msgspec.Struct):
    spec: _Spec


class _Piece(msgspec.Struct):
    new: _Spec
    removal: bool = False


class _Intent(msgspec.Struct):
    pieces: list[_Piece] = []


class _Layer(msgspec.Struct, rename="camel"):
    digest: str
    diff_id: str
    size_bytes: int
    unpacked_bytes: int = 0


class _Image(msgspec.Struct):
    layers: list[_Layer]


class _Volume(msgspec.Struct, rename="camel"):
    capacity_bytes: int | None = None


class Claim(msgspec.Struct, frozen=True):
    """What a transaction that takes something carries: the demands that it lands on what was counted."""

    checks: tuple[Check, ...]
    puts: tuple[Put, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """Where one of these does not hold any more, look again."""
        return frozenset(check.key for check in self.checks)


class Quotas:
    """Counts what VCHs have, and lets them take more."""

    def __init__(self, store: Store, tenants: Tenants) -> None:
        self.tenants = tenants
        self._store = store
        self._turns = Locks()

    async def usage(self, vch: str) -> dict[str, float]:
        """What *vch* has of all that can have a limit, by field of Quota."""
        cpus, memory = await self._resources(vch)
        return {
            "containers": len(await self._names(vch)),
            "cpus": cpus,
            "memory_bytes": memory,
            "storage_bytes": await self._storage(vch),
            "networks": await self._store.count(keys.entities(vch, "networks")),
            "addresses": await self._addresses(vch),
        }

    async def claim(self, vch: str, amounts: Mapping[str, float], *, again: bool = False) -> Claim:
        """What a transaction that takes *amounts*, by field of Quota, has to carry. again: an earlier one has failed.

        Raises:
            NotFound: the VCH has gone. ResourceExhausted: that is more than its quota.
        """
        if again:
            self.tenants.forget(vch)

        def counting(resource: str, amount: float) -> Count:
            async def count() -> tuple[float, float]:
                return await self._used(vch, resource), amount

            return count

        return await self._claim(vch, {name: counting(name, amount) for name, amount in amounts.items() if amount})

    async def claim_layers(self, vch: str, layers: Iterable[KeptLayer]) -> Claim:
        """As `claim`, for an image with *layers*, of which the VCH may have some already."""

        async def count() -> tuple[float, float]:
            mine = await self._layers(vch)
            before = mine.bytes
            mine.add(layers)
            return before + await self._beside_layers(vch), mine.bytes - before

        self.tenants.forget(vch)
        return await self._claim(vch, {"storage_bytes": count})

    async def _claim(self, vch: str, wanted: Mapping[str, Count]) -> Claim:
        while True:
            tenant = await self.tenants.check(vch)
            limits = {name: limit for name in wanted if (limit := getattr(tenant.quota, name)) is not None}
            try:
                held = [await self._judge(vch, name, limit, wanted[name]) for name, limit in limits.items()]
            except ResourceExhausted:
                if not await self.tenants.is_behind(tenant):
                    raise
            else:
                return Claim((tenant.unchanged, *held), tuple(Put(check.key, b"") for check in held))

    async def limits(self, vch: str) -> Quota:
        """The quota of *vch*: where there is one, as it is now. Raises NotFound."""
        quota = (await self.tenants.check(vch)).quota
        if quota == NO_QUOTA:
            return quota
        self.tenants.forget(vch)
        return (await self.tenants.check(vch)).quota

    async def _judge(self, vch: str, resource: str, limit: float, count: Count) -> Check:
        """The demand that nobody takes of *resource* after it was found that there is enough."""
        key = keys.quota(vch, resource)
        row = await self._store.get(key)
        while True:
            held = Check(key, row.revision if row else 0)
            used, asked = await count()
            if not asked or round(used + asked, CPU_DIGITS) <= limit:
                return held
            row = await self._store.get(key)
            if held.revision == (row.revision if row else 0):
                raise exhausted(vch, resource, limit, used, asked)

    @contextlib.asynccontextmanager
    async def turn(self, vch: str, *resources: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Hold off the others of this process that take of *resources*, first come first served, where they have a
        limit: they would only make each other count again. What is yielded ends it early.
        """
        async with contextlib.AsyncExitStack() as stack:
            if resources:
                quota = (await self.tenants.check(vch)).quota
                limited = [f"{vch}/{name}" for name in resources if getattr(quota, name) is not None]
                await stack.enter_async_context(self._turns.hold(*limited))
            yield stack.aclose

    async def room(self, vch: str) -> Room:
        """How much an import may bring now. Raises NotFound."""
        limit = (await self.limits(vch)).storage_bytes
        if limit is None:
            return Room(vch, None, 0, Footprint(()))
        mine = await self._layers(vch)
        return Room(vch, limit, mine.bytes + await self._beside_layers(vch), mine)

    async def check_storage(self, vch: str, quota: Quota) -> None:
        """Nothing that writes comes into a VCH that has more than its *quota* of storage. Raises ResourceExhausted."""
        if quota.storage_bytes is not None and (used := await self._storage(vch)) > quota.storage_bytes:
            raise exhausted(vch, "storage_bytes", quota.storage_bytes, used, 0)

    async def _layers(self, vch: str) -> Footprint:
        """Of the images of *vch*."""
        rows = await self._store.range(keys.entities(vch, "images"))
        images = (msgspec.json.decode(row.value, type=_Image) for row in rows)
        return Footprint(layer for image in images for layer in image.layers)

    async def _storage(self, vch: str) -> int:
        return (await self._layers(vch)).bytes + await self._beside_layers(vch)

    async def _beside_layers(self, vch: str) -> int:
        """The capacities of volumes, and what was written elsewhere, as it was last measured."""
        written = await self._store.range(keys.entities(vch, "written"))
        return await self._capacities(vch) + sum(int(row.value) for row in written)

    async def _used(self, vch: str, resource: str) -> float:
        match resource:
            case "containers":
                return len(await self._names(vch))
            case "cpus":
                return (await self._resources(vch))[0]
            case "memory_bytes":
                return (await self._resources(vch))[1]
            case "storage_bytes":
                return await self._storage(vch)
            case "addresses":
                return await self._addresses(vch)
            case _:
                return await self._store.count(keys.entities(vch, resource))

    async def _addresses(self, vch: str) -> int:
        """Of IPv4 and of IPv6; each counts."""
        return sum([await self._store.count(keys.entities(vch, kind)) for kind in ("addresses", "addresses6")])

    async def _names(self, vch: str) -> set[bytes]:
        """The containers that have a name: those that are committed, and those whose first commit is under way."""
        return {row.value for row in await self._store.range(keys.names(vch, "containers"))}

    async def _resources(self, vch: str) -> tuple[float, int]:
        """cpus and memory of all containers. Of one with a commit under way, the more of before and after; the intents
        are read first, so that one that is done meanwhile is found among the containers.
        """
        intents = await self._store.range(keys.entities(vch, "intents"))
        containers = await self._store.range(keys.entities(vch, "containers"))
        specs = [msgspec.json.decode(row.value, type=_Container).spec for row in containers]
        known = {spec.id for spec in specs}
        for row in intents:
            pieces = msgspec.json.decode(row.value, type=_Intent).pieces
            specs += [piece.new for piece in pieces if not piece.removal or piece.new.id in known]
        cpus: dict[str, float] = {}
        memory: dict[str, int] = {}
        for spec in specs:
            cpus[spec.id] = max(cpus.get(spec.id, 0.0), spec.resources.cpus or 0.0)
            memory[spec.id] = max(memory.get(spec.id, 0), spec.resources.memory_bytes or 0)
        return round(math.fsum(cpus.values()), CPU_DIGITS), sum(memory.values())

    async def _capacities(self, vch: str) -> int:
        rows = await self._store.range(keys.entities(vch, "volumes"))
        return sum(msgspec.json.decode(row.value, type=_Volume).capacity_bytes or 0 for row in rows)


def check_quota(quota: Quota) -> Quota:
    """*quota* itself where every limit is a number from 0 to 2^60."""
    for field, name in NAMES.items():
        limit = getattr(quota, field)
        if limit is not None and not 0 <= limit <= MAX_LIMIT:
            raise InvalidArgument("A limit is between 0 and 2^60.", pointer=f"/quota/{name}")
    return quota


def unlimited(name: str, resource: str) -> InvalidArgument:
    """The refusal of a container without a limit where the sum of limits has one."""
    return InvalidArgument(
        f"{name} has no limit on {NAMES[resource]}, and its VCH has a quota of that; "
        f"give it resources.{NAMES[resource]}."
    )
