"""The VCHs as this process knows them: remembered, and kept true by a watch, for every call begins by asking.

What is remembered may be a moment behind another process. So whatever makes something in a VCH demands in its
transaction that the VCH's record is still the one that was read: nothing gets into a VCH that is being deleted, or past
a quota that has been changed. A transaction that fails for it forgets, and looks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Literal

import msgspec

from portlayer.components import keys
from portlayer.components.enduring import endure
from portlayer.interfaces.store import Check, Compacted, Record, Store
from portlayer.model.base import Value
from portlayer.model.errors import NotFound, Unavailable
from portlayer.model.service import Quota
from portlayer.model.versions import read, read_whole

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0


class VchRecord(Value):
    """A tenant in the store. id: it tells one from a later one of the same name; handles are bound to it.

    version: counts the changes of the record, and is its ETag.
    """

    name: str
    id: str = ""
    created_at: str
    quota: Quota = Quota()
    state: Literal["active", "deleting"] = "active"
    version: int = 1


class Tenant(msgspec.Struct, frozen=True):
    """A VCH's record as it was read at *revision*."""

    record: VchRecord
    revision: int

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def quota(self) -> Quota:
        return self.record.quota

    @property
    def unchanged(self) -> Check:
        """The demand of a transaction that makes something in this VCH."""
        return Check(keys.vch(self.record.name), self.revision)


class Tenants:
    """Reads VCHs. Nothing is remembered unless `following`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Tenant] = {}
        self._changes = 0
        self._followed = False
        self.leaving: Callable[[str], None] = lambda _: None

    async def read(self, name: str, *, whole: bool = False) -> Tenant | None:
        """The VCH as it is now, also one that is being deleted. whole: to write it anew."""
        row = None if "/" in name else await self._store.get(keys.vch(name))
        return None if row is None else Tenant((read_whole if whole else read)(VchRecord, row.value), row.revision)

    async def check(self, name: str) -> Tenant:
        """Raises NotFound for a VCH that is not there, or is being deleted."""
        known = self._known.get(name)
        if known is not None:
            return known
        before = self._changes
        found = await self.read(name)
        if found is None or found.record.state != "active":
            raise NotFound(f"There is no VCH called {name[:140]!r}.", kind="vch", id=name)
        if self._followed and self._changes == before:
            self._known[name] = found
        return found

    def forget(self, name: str) -> None:
        """Read it again the next time."""
        self._changes += 1
        self._known.pop(name, None)

    async def is_behind(self, tenant: Tenant) -> bool:
        """Whether the VCH has changed since *tenant* was read; then it is forgotten."""
        if await self.is_still(tenant):
            return False
        self.forget(tenant.record.name)
        return True

    async def is_still(self, tenant: Tenant) -> bool:
        """Whether the VCH is as it was when *tenant* was read, and none that has taken its name."""
        found = await self.read(tenant.record.name)
        return found is not None and found.revision == tenant.revision

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Remember, and call `leaving` with each VCH that is being deleted: now, and as it comes."""
        self._followed = True
        task = asyncio.create_task(endure("VCHs are followed", self._follow))
        try:
            yield
        finally:
            self._followed = False
            self._known.clear()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(keys.VCHS)) as changes:
                    for row in await self._store.range(keys.VCHS):
                        self._look(row)
                    async for change in changes:
                        self.forget(keys.last(change.key))
                        if change.record is not None:
                            self._look(change.record)
            except (Compacted, Unavailable):
                log.exception("the VCHs could not be followed; starting over")
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return  # the store is closed
            finally:
                self._known.clear()
                self._changes += 1

    def _look(self, row: Record) -> None:
        try:
            record = read(VchRecord, row.value)
        except Unavailable as error:  # who asks for this VCH is told so; the others are none the worse for it
            log.warning("VCH %s is not looked after here: %s", keys.last(row.key), error)
            return
        if record.state == "deleting":
            self.leaving(record.name)
