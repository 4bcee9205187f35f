"""Typed reading of the store: what the components share of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from portlayer.components import keys
from portlayer.components.tenants import Tenant, Tenants
from portlayer.interfaces.store import Changed, Compacted, Put, Record, Store, Watch
from portlayer.model.base import Value, now
from portlayer.model.errors import InvalidArgument, NotFound, Unavailable
from portlayer.model.events import Event
from portlayer.model.execution import ContainerRecord, ContainerSpec, Observed
from portlayer.model.names import check_image_name, image_id, is_id, new_id
from portlayer.model.storage import Volume
from portlayer.model.versions import read, read_whole

T = TypeVar("T", bound=Value)
MAX_PAGE = 1000
EVENT_RETENTION_SECONDS = 7 * 86400.0
_encode = msgspec.json.Encoder().encode


def encode(value: Value) -> bytes:
    return _encode(value)


decode, decode_whole = read, read_whole
"""Of a record: as much as is known, to look at it; or all of it, to act on it or write it anew (model/versions.py)."""


def put(key: str, value: Value, ttl_seconds: float | None = None) -> Put:
    return Put(key, encode(value), ttl_seconds)


def event_puts(vch: str, *events: Event, seconds: float = EVENT_RETENTION_SECONDS) -> list[Put]:
    """Rows that tell of what the transaction they go into does, kept for *seconds*. Once of a transaction and VCH."""
    prefix = f"{keys.entities(vch, 'events')}{new_id()}/"
    places = [*range(len(events) - 1), keys.LAST_OF_REVISION]
    return [put(f"{prefix}{place:05}", event, seconds) for place, event in zip(places, events, strict=False)]


def event(kind: str, what: str, ident: str, name: str, **attributes: str) -> Event:
    """An event of now."""
    return Event(type=f"{kind}.{what}", kind=kind, id=ident, name=name, time=now(), attributes=attributes)


class Records:
    """Reads records of one store by type, id and name."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tenants = Tenants(store)

    async def check_vch(self, vch: str) -> Tenant:
        """Raises NotFound for a tenant that is not there, or is being deleted."""
        return await self.tenants.check(vch)

    async def read(self, kind: type[T], key: str) -> T | None:
        record = await self.store.get(key)
        return None if record is None else decode(kind, record.value)

    async def resolve(self, vch: str, kind: str, ref: str, pointer: str = "/ref") -> str:
        """The id behind *ref*, an id or a name. kind is a plural, as in the keys. pointer: where *ref* stood.

        Raises:
            NotFound: nothing is called so.
        """
        await self.check_vch(vch)
        ident = image_id(ref) if kind == "images" else ref if is_id(ref) else None
        if ident is not None:
            return ident
        if not ref or "\x00" in ref or len(ref) > 300:
            raise InvalidArgument("An empty, overlong or NUL-carrying reference names nothing.", pointer=pointer)
        name = check_image_name(ref, pointer) if kind == "images" else ref
        record = await self.store.get(keys.name(vch, kind, name))
        if record is None:
            raise NotFound(f"There is no {kind[:-1]} called {ref!r}.", kind=kind[:-1], id=ref)
        return record.value.decode()

    async def find(self, type_: type[T], vch: str, kind: str, ref: str, pointer: str = "/ref") -> T:
        """The entity behind *ref*; raises NotFound."""
        ident = await self.resolve(vch, kind, ref, pointer)
        found = await self.read(type_, keys.entity(vch, kind, ident))
        if found is None:
            raise NotFound(f"There is no {kind[:-1]} {ref!r}.", kind=kind[:-1], id=ref)
        return found

    async def container(self, vch: str, ident: str) -> tuple[ContainerRecord, Observed] | None:
        """A committed container with what is observed of it, of one instant."""
        record, observed = await self.store.get_many(
            [keys.entity(vch, "containers", ident), keys.entity(vch, "observed", ident)]
        )
        if record is None:
            return None
        seen = decode(Observed, observed.value) if observed else Observed()
        return decode(ContainerRecord, record.value), seen

    async def find_container(self, vch: str, ref: str) -> tuple[ContainerRecord, Observed]:
        """As `container`, by id or name; raises NotFound."""
        found = await self.container(vch, await self.resolve(vch, "containers", ref))
        if found is None:
            raise NotFound(f"There is no container {ref!r}.", kind="container", id=ref)
        return found

    async def page(
        self, type_: type[T], vch: str, kind: str, keep: Callable[[T], bool], limit: int, after: str | None
    ) -> tuple[tuple[T, ...], str | None]:
        """Up to *limit* entities for which *keep* holds, by id after *after*, and the cursor of the next page."""
        await self.check_vch(vch)
        prefix = keys.entities(vch, kind)
        rows = await self.store.range(prefix, after=prefix + after if after else "")
        return self.page_of(type_, rows, keep, limit)

    def page_of(
        self, type_: type[T], rows: Iterable[Record], keep: Callable[[T], bool], limit: int
    ) -> tuple[tuple[T, ...], str | None]:
        """As `page`, of *rows*."""
        _check_limit(limit)
        found: list[T] = []
        last = ""
        for record in rows:
            value = decode(type_, record.value)
            if not keep(value):
                continue
            if len(found) == limit:
                return tuple(found), last
            found.append(value)
            last = keys.last(record.key)
        return tuple(found), None

    async def left(self, tenant: Tenant, kind: str) -> list[Record]:
        """What a VCH that is being deleted still has of *kind*, a plural. Nothing where it has gone meanwhile: what is
        there then is that of another, which has taken its name."""
        rows = await self.store.range(keys.entities(tenant.record.name, kind))
        return rows if await self.tenants.is_still(tenant) else []

    async def until_gone(self, prefix: str, seconds: float) -> bool:
        """Wait until no key is under *prefix*; False past *seconds*."""
        if not await self.store.count(prefix):
            return True
        try:
            async with asyncio.timeout(seconds), contextlib.aclosing(self.store.watch(prefix)) as changes:
                if not await self.store.count(prefix):
                    return True
                while (change := await next_change(changes)) is not None:
                    if change.record is None and not await self.store.count(prefix):
                        return True
        except TimeoutError:
            pass
        return False


async def next_change(changes: Watch) -> Changed | None:
    """The next change; None once the store is closed.

    Raises:
        Unavailable: some were missed, as the store was out of reach for long.
    """
    try:
        return await anext(changes, None)
    except Compacted:
        raise Unavailable("Changes were missed while the store was away; ask again.", retry_after_seconds=1) from None


async def own_volumes(records: Records, vch: str, spec: ContainerSpec) -> dict[str, str]:
    """The anonymous volumes of a container that nobody else has joined: id -> name."""
    wanted = list({mount.volume for mount in spec.mounts.values()})
    rows = await records.store.get_many([keys.entity(vch, "volumes", volume) for volume in wanted])
    found = [decode(Volume, row.value) for row in rows if row is not None]
    return {
        volume.id: volume.name
        for volume in found
        if volume.anonymous and await records.store.count(keys.uses(vch, "volumes", volume.id)) == 1
    }


def cut(
    values: Iterable[T], ident: Callable[[T], str], limit: int, after: str | None
) -> tuple[tuple[T, ...], str | None]:
    """A page of *values*, by *ident*, and the cursor of the next one: as `Records.page`, for what is at hand."""
    _check_limit(limit)
    rest = sorted((value for value in values if ident(value) > (after or "")), key=ident)
    return tuple(rest[:limit]), ident(rest[limit - 1]) if len(rest) > limit else None


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidArgument(f"limit must be between 1 and {MAX_PAGE}.", pointer="?limit")


def label_filter(filters: tuple[str, ...]) -> Callable[[dict[str, str]], bool]:
    """A test for labels from `key=value` and `key` filters, all of which must hold."""
    pairs = [tuple(text.partition("=")) for text in filters]
    return lambda labels: all(key in labels and (not equals or labels[key] == value) for key, equals, value in pairs)
