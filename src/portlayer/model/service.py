"""The port layer itself: what it says of itself, tenants, small values."""

from __future__ import annotations

from typing import Literal

import msgspec

from portlayer.model.base import Value


class ComponentInfo(Value):
    """Where a component runs: `local` for the process that was asked, `<process> on <host>` for others."""

    name: str
    where: str


class SubstrateInfo(Value):
    """A substrate and what it can do; `features` are facts such as runtime, cgroup version, seccomp."""

    name: str
    features: dict[str, str]


class ProcessInfo(Value):
    """A process of this port layer that lives. address: where the others reach it. seen_at: when it last said so."""

    name: str
    host: str
    components: tuple[str, ...]
    address: str
    started_at: str
    seen_at: str = ""
    version: str = ""


HostState = Literal["starting", "up", "away"]
"""starting: its containers are being looked at. away: no process looks after them; what runs there runs on."""


class HostInfo(Value):
    """A host. cpus, memory_bytes: what the limits of its containers may come to; committed: what they come to. labels:
    for placement. since: when it came up, or was found to be away.

    Figures and features are for operators alone: they tell of other tenants.
    """

    name: str
    state: HostState
    substrate: str
    labels: dict[str, str]
    cpus: float | None = None
    memory_bytes: int | None = None
    committed_cpus: float | None = None
    committed_memory_bytes: int | None = None
    containers: int | None = None
    features: dict[str, str] = {}
    since: str = ""


class ProcessHealth(Value):
    """What a process says of itself, as `Readiness`, and how long it took to say so, its look at the store included;
    where it says nothing, `reached` tells why."""

    process: ProcessInfo
    ready: bool
    checks: dict[str, str]
    seconds: float = 0.0


class Processes(Value):
    processes: tuple[ProcessHealth, ...]


class Info(Value):
    """processes: for operators alone."""

    version: str
    api_version: str
    instance: str
    components: tuple[ComponentInfo, ...]
    substrates: tuple[SubstrateInfo, ...]
    store: str
    hosts: tuple[HostInfo, ...] = ()
    processes: tuple[ProcessInfo, ...] = ()


class DeleteHost(Value):
    """force: with its containers and volumes."""

    ref: str
    force: bool = False


class Quota(Value):
    """The most that a tenant may have; None is no limit.

    containers, networks: how many there are. cpus, memory_bytes: sums of the limits of its containers.
    storage_bytes: what the layers of its images unpack to, each layer once, the capacities of its volumes, and what its
    containers were last seen to have written elsewhere. addresses: leased and allocated ones.
    """

    containers: int | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    storage_bytes: int | None = None
    networks: int | None = None
    addresses: int | None = None


class QuotaChange(Value):
    """What to change of a quota: a number sets a limit, null lifts it, what is left out stays."""

    containers: int | msgspec.UnsetType | None = msgspec.UNSET
    cpus: float | msgspec.UnsetType | None = msgspec.UNSET
    memory_bytes: int | msgspec.UnsetType | None = msgspec.UNSET
    storage_bytes: int | msgspec.UnsetType | None = msgspec.UNSET
    networks: int | msgspec.UnsetType | None = msgspec.UNSET
    addresses: int | msgspec.UnsetType | None = msgspec.UNSET


class Usage(Value):
    """What a tenant has: what its quota counts, and how many volumes and images."""

    containers: int
    cpus: float
    memory_bytes: int
    storage_bytes: int
    networks: int
    addresses: int
    volumes: int
    images: int


class Vch(Value):
    """A tenant. id: of this one alone, also among those of one name. version: counts its changes, and is its ETag.

    A tenant that is `deleting` takes no calls; it goes with all that is in it.
    """

    name: str
    id: str
    state: Literal["active", "deleting"]
    quota: Quota
    usage: Usage
    version: int
    created_at: str


class Vchs(Value):
    vchs: tuple[Vch, ...]
    next: str | None


class ListVchs(Value):
    limit: int = 100
    after: str | None = None


class VchRef(Value):
    ref: str


class CreateVch(Value):
    name: str
    quota: Quota = Quota()


class UpdateVch(Value):
    """if_match: the ETag that must be current; `*` any; None: whatever is there."""

    ref: str
    quota: QuotaChange = QuotaChange()
    if_match: str | None = None


class DeleteVch(Value):
    """force: with everything in it; without, it must be empty."""

    ref: str
    force: bool = False
    if_match: str | None = None


class KvRef(Value):
    key: str


class PutKv(Value):
    """value: at most 64 KiB. if_match: the ETag that must be current; `*` any; None: whatever is there."""

    key: str
    value: bytes
    if_match: str | None = None


class DeleteKv(Value):
    key: str
    if_match: str | None = None


class KvEntry(Value):
    key: str
    value: bytes
    etag: str


class Subscribe(Value):
    """since: a cursor, `revision` or `revision.index`, or `now` (the default), or `0` for all that is kept."""

    since: str | None = None


class Readiness(Value):
    """ready: store and substrate answer. checks: `ok` or what is wrong: `store`, `substrate`, `commits`, `process`."""

    ready: bool
    checks: dict[str, str]
