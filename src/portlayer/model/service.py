"""The port layer itself: what it says of itself, tenants, small values."""

from __future__ import annotations

from portlayer.model.base import Value
from portlayer.model.events import NumberedEvent


class ComponentInfo(Value):
    """Where a component runs: `local`, or the address of the process that has it."""

    name: str
    where: str


class SubstrateInfo(Value):
    """A substrate and what it can do; `features` are facts such as runtime, cgroup version, seccomp."""

    name: str
    features: dict[str, str]


class Info(Value):
    version: str
    api_version: str
    instance: str
    components: tuple[ComponentInfo, ...]
    substrates: tuple[SubstrateInfo, ...]
    store: str


class Usage(Value):
    containers: int
    networks: int
    volumes: int
    images: int


class Vch(Value):
    name: str
    created_at: str
    usage: Usage


class Vchs(Value):
    vchs: tuple[Vch, ...]
    next: str | None


class ListVchs(Value):
    limit: int = 100
    after: str | None = None


class VchRef(Value):
    ref: str


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
    """since: a cursor `revision.index`, or `now` (the default), or `0` for all that is kept."""

    since: str | None = None


class EventPage(Value):
    events: tuple[NumberedEvent, ...]


class Readiness(Value):
    ready: bool
    checks: dict[str, str]
