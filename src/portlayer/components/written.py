"""What containers write, measured: of VCHs whose storage has a limit, again and again, on the host that has them.

    /v/<vch>/written/<container or volume>   bytes on disk, decimal

A volume with a capacity is counted by that, and not measured. Nothing below a megabyte is written down, and nothing
that has changed by less: most containers write little, and cost nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

from portlayer.components import keys
from portlayer.components.enduring import endure
from portlayer.components.records import decode
from portlayer.components.tenants import VchRecord
from portlayer.interfaces.store import Check, CheckFailed, Put, Store, Transaction
from portlayer.interfaces.substrate import StorageDriver
from portlayer.model.errors import PortlayerError
from portlayer.model.execution import ContainerRecord
from portlayer.model.storage import Volume

log = logging.getLogger(__name__)
PERIOD_SECONDS = 60.0
PAUSES = 20
"""How many times as long as a measuring took is the pause after it, at the least."""
AT_ONCE = 8
STEP_BYTES = 1 << 20


class Meter:
    """Measures on *host*: several VCHs at once, so that one with very many files holds up itself alone."""

    def __init__(self, store: Store, driver: StorageDriver, host: str, period_seconds: float) -> None:
        self._store = store
        self._driver = driver
        self._host = host
        self._period = period_seconds
        self._places = asyncio.Semaphore(AT_ONCE)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(endure("what containers write is measured", self._measure_often))

    async def close(self) -> None:
        tasks = [*self._busy.values(), *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def measure(self) -> None:
        """Once, all that is to be measured."""
        for vch in await self._limited():
            await self._measure(vch)

    async def _measure_often(self) -> None:
        while True:
            try:
                for vch in await self._limited():
                    if vch not in self._busy:
                        self._busy[vch] = asyncio.create_task(self._take_turn(vch))
            except PortlayerError as error:
                log.warning("what is to be measured cannot be read now: %s", error)
            await asyncio.sleep(self._period)

    async def _take_turn(self, vch: str) -> None:
        """Measure it, and then rest, if that took long."""
        try:
            async with self._places:
                began = time.monotonic()
                await self._measure(vch)
            await asyncio.sleep(PAUSES * (time.monotonic() - began) - self._period)
        except PortlayerError as error:
            log.warning("what containers of VCH %s write cannot be measured now: %s", vch, error)
        except Exception:
            log.exception("what containers of VCH %s write was not measured", vch)
        finally:
            del self._busy[vch]

    async def _limited(self) -> list[str]:
        """The VCHs whose storage has a limit."""
        vchs = [decode(VchRecord, row.value) for row in await self._store.range(keys.VCHS)]
        return [vch.name for vch in vchs if vch.quota.storage_bytes is not None]

    async def _measure(self, vch: str) -> None:
        containers = [
            keys.last(row.key)
            for row in await self._store.range(keys.entities(vch, "containers"))
            if decode(ContainerRecord, row.value).spec.host == self._host
        ]
        volumes = [
            volume.id
            for row in await self._store.range(keys.entities(vch, "volumes"))
            if (volume := decode(Volume, row.value)).capacity_bytes is None and volume.host in ("", self._host)
        ]
        found = await self._driver.written(containers, volumes)
        kinds = {**dict.fromkeys(containers, "containers"), **dict.fromkeys(volumes, "volumes")}
        await self._note(vch, found, kinds)

    async def _note(self, vch: str, found: Mapping[str, int], kinds: Mapping[str, str]) -> None:
        """Of what is still there."""
        rows = await self._store.range(keys.entities(vch, "written"))
        known = {keys.last(row.key): int(row.value) for row in rows}
        for ident, size in found.items():
            if abs(size - known.get(ident, 0)) >= STEP_BYTES:
                there = Check(keys.entity(vch, kinds[ident], ident), None)
                put = Put(keys.entity(vch, "written", ident), b"%d" % size)
                with contextlib.suppress(CheckFailed):
                    await self._store.apply(Transaction((there,), (put,), durable=False))
