"""What a commit takes from, and gives back to, the rest of the store: names, uses, addresses, room of the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from portlayer.components import keys
from portlayer.components.addresses import Address
from portlayer.components.commit.intents import Op, Piece
from portlayer.components.placing import share
from portlayer.components.quota import Quotas, unlimited
from portlayer.components.records import Records, decode, encode
from portlayer.interfaces.store import Check, CheckFailed, Empty
from portlayer.model.errors import AlreadyExists, Conflict, NotFound, PortlayerError
from portlayer.model.execution import ContainerSpec
from portlayer.model.hosts import Capacity
from portlayer.model.network import EndpointSpec
from portlayer.model.plan import MakeNetwork, RemoveVolume
from portlayer.model.storage import MountSpec, Volume
from portlayer.model.versions import amended


def taken_of(pieces: Sequence[Piece]) -> tuple[str, ...]:
    """What of a VCH *pieces* may take, by field of its quota: nothing, unless they create, or change resources."""
    growing = any(piece.old is None or piece.old.resources != piece.new.resources for piece in pieces)
    return ("containers", "cpus", "memory_bytes") if growing else ()


class Claims:
    """The store's side of a commit's pieces, gathered before the first transaction.

    checks and takes go into the first transaction, undo takes them back; frees go with the record's change;
    finally_free wait until the substrate has let go too. reasons says what a failed check on a key means.
    """

    def __init__(self, vch: str, host: str, lease_seconds: float) -> None:
        self.vch = vch
        self._host = host
        self._lease_seconds = lease_seconds
        self.checks: list[Check | Empty] = []
        self.takes: list[Op] = []
        self.undo: list[Op] = []
        self.frees: list[Op] = []
        self.finally_free: list[Op] = []
        self.reasons: dict[str, PortlayerError] = {}
        self._planned_on: set[str] = set()

    def look_again(self, check: Check) -> None:
        """What a commit was planned on: where *check* fails, that says more than any other that fails with it."""
        self.checks.append(check)
        self._planned_on.add(check.key)

    def _take(self, op: Op, back: Op) -> None:
        self.takes.append(op)
        self.undo.append(back)

    def _demand(self, check: Check | Empty, reason: PortlayerError) -> None:
        key = check.key if isinstance(check, Check) else check.prefix
        if isinstance(check, Check) and check.revision == 0 and key in self.reasons:
            raise reason  # another piece of this commit, or another endpoint of this container, takes it already
        self.checks.append(check)
        self.reasons[key] = reason

    def _use(self, kind: str, ident: str, name: str, container: str) -> None:
        key = keys.entity(self.vch, kind, ident)
        self._demand(
            Check(key, None), NotFound(f"{kind[:-1].title()} {name} has been removed.", kind=kind[:-1], id=name)
        )
        use = keys.use(self.vch, kind, ident, container)
        self._take(Op(key=use, value=b""), Op(key=use))

    def _name(self, spec: ContainerSpec) -> None:
        key = keys.name(self.vch, "containers", spec.name)
        taken = AlreadyExists(f"A container called {spec.name} is there already.", kind="container", id=spec.name)
        self._demand(Check(key, 0), taken)
        self._take(Op(key=key, value=spec.id.encode()), Op(key=key))

    async def add(self, records: Records, piece: Piece, known_networks: set[str]) -> None:
        """Gather what *piece* takes and gives back. known_networks: those that this host is recorded to have."""
        old, new = piece.old, piece.new
        if piece.removal:
            self.remove(new)
            for step in piece.plan.after:
                if isinstance(step, RemoveVolume):
                    self._remove_volume(step)
            return
        if old is None:
            gone = NotFound("This container has been removed.", kind="container", id=new.id)
            self._demand(Check(keys.entity(self.vch, "removed", new.id), 0), gone)
            self._name(new)
            self._use("images", new.image.id, new.image.name, new.id)
        elif old.name != new.name:
            self._name(new)
            self.frees.append(Op(key=keys.name(self.vch, "containers", old.name)))
        self._share(old, new)
        await self._volumes(records, old, new)
        await self._endpoints(records, old, new)
        for step in piece.plan.before:
            if isinstance(step, MakeNetwork) and step.network not in known_networks:
                self.takes.append(Op(key=keys.network_hosts(self.vch, step.network) + self._host, value=b""))

    def add_room(self, check: Check | None) -> None:
        """Take of the host's room what was found to be there, if *check* holds."""
        if check is not None:
            self.checks.append(check)
            self.takes.append(Op(key=check.key, value=b""))

    def _share(self, old: ContainerSpec | None, new: ContainerSpec) -> None:
        """What the container takes of its host: while it changes, the more of before and after."""
        key = keys.place(self._host, self.vch, new.id)
        after = share(new.resources)
        if old is None:
            self._take(Op(key=key, value=encode(after)), Op(key=key))
            return
        before = share(old.resources)
        if before == after:
            return
        most = Capacity(cpus=max(before.cpus, after.cpus), memory_bytes=max(before.memory_bytes, after.memory_bytes))
        if most != before:
            self._take(Op(key=key, value=encode(most)), Op(key=key, value=encode(before)))
        if most != after:
            self.frees.append(Op(key=key, value=encode(after)))

    async def add_quota(self, quotas: Quotas, pieces: Sequence[Piece]) -> None:
        """Gather what *pieces* take of their VCH; what they give back counts once they have.

        Raises ResourceExhausted, and InvalidArgument for a container without a limit where the sum has one.
        """
        amounts = dict.fromkeys(taken_of(pieces), 0.0)
        if not amounts:
            return
        quota = await quotas.limits(self.vch)
        if any(piece.old is None for piece in pieces):
            await quotas.check_storage(self.vch, quota)
        for piece in pieces:
            amounts["containers"] += piece.old is None
            for resource in ("cpus", "memory_bytes"):
                before = getattr(piece.old.resources, resource) if piece.old else None
                after = getattr(piece.new.resources, resource)
                fresh = piece.old is None or before is not None
                if after is None and fresh and not piece.removal and getattr(quota, resource) is not None:
                    raise unlimited(piece.new.name, resource)
                amounts[resource] += max(0, (after or 0) - (before or 0))
        claim = await quotas.claim(self.vch, amounts)
        self.checks += claim.checks
        self.takes += [Op(key=put.key, value=put.value) for put in claim.puts]

    def remove(self, spec: ContainerSpec) -> None:
        """Gather what a container gives back when it goes."""
        self.frees.append(Op(key=keys.name(self.vch, "containers", spec.name)))
        self.frees.append(Op(key=keys.entity(self.vch, "written", spec.id)))
        self.finally_free.append(Op(key=keys.use(self.vch, "images", spec.image.id, spec.id)))
        self.finally_free.append(Op(key=keys.place(self._host, self.vch, spec.id)))
        for volume in {mount.volume for mount in spec.mounts.values()}:
            self.finally_free.append(Op(key=keys.use(self.vch, "volumes", volume, spec.id)))
        for endpoint in spec.endpoints.values():
            self.finally_free += self._let_go(endpoint, spec.id)

    def _remove_volume(self, step: RemoveVolume) -> None:
        """A volume goes with the only container that uses it."""
        uses = keys.uses(self.vch, "volumes", step.volume)
        shared = Conflict(f"Another container has joined {step.name}.", id=step.container, collisions=["mounts"])
        self._demand(Empty(uses, besides=f"{uses}{step.container}"), shared)
        self.frees.append(Op(key=keys.entity(self.vch, "volumes", step.volume)))
        self.frees.append(Op(key=keys.name(self.vch, "volumes", step.name)))
        self.frees.append(Op(key=keys.entity(self.vch, "written", step.volume)))

    async def _volumes(self, records: Records, old: ContainerSpec | None, new: ContainerSpec) -> None:
        before = {mount.volume for mount in old.mounts.values()} if old else set()
        after = {mount.volume: mount for mount in new.mounts.values()}
        for volume, mount in after.items():
            if volume not in before:
                self._use("volumes", volume, mount.volume_name, new.id)
                await self._settle(records, mount, new)
        self.frees += [Op(key=keys.use(self.vch, "volumes", volume, new.id)) for volume in before - after.keys()]

    async def _settle(self, records: Records, mount: MountSpec, new: ContainerSpec) -> None:
        """A volume lives where it is used first, and from then on there alone; that stays so where the commit fails."""
        key = keys.entity(self.vch, "volumes", mount.volume)
        row = await records.store.get(key)
        volume = decode(Volume, row.value) if row else None
        if row is None or volume is None or volume.host == self._host:
            return
        if volume.host:
            raise Conflict(
                f"Volume {volume.name} lives on host {volume.host}, and {new.name} is on {self._host}.",
                id=new.id,
                collisions=[f"mounts{mount.destination}"],
            )
        self.look_again(Check(key, row.revision))
        self.takes.append(Op(key=key, value=amended(Volume, row.value, host=self._host)))

    async def _endpoints(self, records: Records, old: ContainerSpec | None, new: ContainerSpec) -> None:
        before = old.endpoints if old else {}
        gone = {network: earlier for network, earlier in before.items() if _ends(earlier, new.endpoints.get(network))}
        freed = {
            op.key: (op, earlier)
            for network, earlier in gone.items()
            for op in self._let_go(earlier, new.id, joined=network in new.endpoints)
        }
        mine = {key: of.id for key, (_, of) in freed.items()}
        for network, endpoint in new.endpoints.items():
            earlier = before.get(network)
            if earlier is None:
                self._use("networks", network, endpoint.network_name, new.id)
            if endpoint.bound and not (earlier and earlier.bound and network not in gone):
                await self._allocate(records, endpoint, new.id, mine)
                self._publish(endpoint, mine)
        kept = {op.key for op in self.takes}
        self.frees += [op for op, _ in freed.values() if op.key not in kept]

    def _let_go(self, endpoint: EndpointSpec, container: str, *, joined: bool = False) -> Iterable[Op]:
        if endpoint.bound:
            for address in endpoint.addresses:
                yield Op(key=keys.address(self.vch, endpoint.network, address))
            for port in endpoint.ports:
                yield Op(key=keys.port(self._host, port.protocol, port.host_port))
        if not joined:
            yield Op(key=keys.use(self.vch, "networks", endpoint.network, container))

    async def _allocate(
        self, records: Records, endpoint: EndpointSpec, container: str, mine: Mapping[str, str]
    ) -> None:
        """The lease that bind made becomes an allocation. mine: what this commit lets go and has not taken again, and
        which endpoint has it."""
        lease_key = keys.entity(self.vch, "leases", endpoint.id)
        wanted = [keys.address(self.vch, endpoint.network, address) for address in endpoint.addresses]
        lease, *rows = await records.store.get_many([lease_key, *wanted])
        leased = " and ".join(endpoint.addresses)
        gone = Conflict(
            f"The lease of address {leased} in {endpoint.network_name} has run out; bind again.",
            id=container,
            collisions=[f"endpoints/{endpoint.network_name}"],
        )
        owned = encode(Address(endpoint=endpoint.id, container=container, committed=True))
        for key, held in zip(wanted, rows, strict=True):
            if held is None or decode(Address, held.value).endpoint not in (endpoint.id, mine.get(key)):
                raise gone
            self._demand(Check(key, held.revision), gone)
            seconds = None if key in mine else self._lease_seconds
            self._take(Op(key=key, value=owned), Op(key=key, value=held.value, ttl_seconds=seconds))
        if lease is not None:
            back = Op(key=lease_key, value=lease.value, ttl_seconds=self._lease_seconds)
            self._take(Op(key=lease_key), back)

    def _publish(self, endpoint: EndpointSpec, mine: dict[str, str]) -> None:
        for port in endpoint.ports:
            key = keys.port(self._host, port.protocol, port.host_port)
            if key in mine:
                self._take(Op(key=key, value=endpoint.id.encode()), Op(key=key, value=mine.pop(key).encode()))
                continue
            number = f"{port.host_port}/{port.protocol}"
            taken = AlreadyExists(f"Port {number} of the host is published already.", kind="port", id=number)
            self._demand(Check(key, 0), taken)
            self._take(Op(key=key, value=endpoint.id.encode()), Op(key=key))

    def explain(self, failure: CheckFailed) -> PortlayerError | None:
        """The error behind a failed first transaction; None where the container itself changed: look again."""
        if failure.keys & self._planned_on:
            return None
        return next((self.reasons[key] for key in sorted(failure.keys) if key in self.reasons), None)


def _ends(earlier: EndpointSpec, now: EndpointSpec | None) -> bool:
    """Whether what *earlier* has is let go: it left, another took its place, or it is bound no more, or elsewhere."""
    return now is None or now.id != earlier.id or (earlier.bound and earlier.addresses != now.addresses)
