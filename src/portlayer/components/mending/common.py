"""What all mending has in common: which container, what may fail, who is told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable
from typing import NamedTuple

from portlayer.components.commit.engine import Engine
from portlayer.components.observer import LIVE
from portlayer.components.records import Records, event, event_puts
from portlayer.interfaces.store import Transaction
from portlayer.model.errors import PortlayerError
from portlayer.model.execution import ContainerRecord, ContainerSpec, Observed
from portlayer.scope import scope

log = logging.getLogger(__name__)
KINDS = ("exit", "state", "process", "mount", "network", "link", "unexplained")


class Container(NamedTuple):
    """One of this host as a sweep has read it."""

    vch: str
    record: ContainerRecord
    observed: Observed

    @property
    def spec(self) -> ContainerSpec:
        return self.record.spec

    @property
    def live(self) -> str:
        """The incarnation that should be there; "" for none."""
        return self.observed.incarnation if self.observed.state in LIVE else self.observed.prepared


class Mending:
    """Of one host. repairs counts what was mended, by kind."""

    def __init__(self, records: Records, engine: Engine) -> None:
        self.repairs: Counter[str] = Counter()
        self.records = records
        self.store = records.store
        self.engine = engine
        self.on = engine.substrate

    async def attempt(self, one: Container, repair: Awaitable[None]) -> None:
        """One that cannot be mended does not keep the others from it."""
        with scope(vch=one.vch, container=one.spec.id):
            await self._attempt(one, repair)

    async def _attempt(self, one: Container, repair: Awaitable[None]) -> None:
        try:
            await repair
        except PortlayerError as error:
            log.warning("container %s could not be looked at or mended: %s", one.spec.id, error)

    async def mended(self, one: Container, kind: str, **attributes: str) -> None:
        """Count it, and tell of it."""
        self.repairs[kind] += 1
        log.warning("mended %s of container %s %s", kind, one.spec.id, attributes or "")
        await self.tell(one, "repaired", mended=kind, **attributes)

    async def tell(self, one: Container, what: str, **attributes: str) -> None:
        """An event of the container, `container.<what>`."""
        told = event("container", what, one.spec.id, one.spec.name, **attributes)
        await self.store.apply(Transaction(ops=event_puts(one.vch, told), durable=False))
