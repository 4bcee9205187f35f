"""VCHs that are being deleted: each component takes away its own part, in any process, until nothing is left.

The state `deleting` in a VCH's record is the whole plan: whoever finds it, at once or after a crash, does what is left
of it. Parts that are not there any more are no work, so several processes may be at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from portlayer.components.tenants import Tenant, Tenants
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import CheckFailed
from portlayer.model.errors import InUse, PortlayerError, Unavailable

log = logging.getLogger(__name__)
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.05, 10.0
RETRY_SECONDS = 1.0


class Departures:
    """parts: by name, in this order, what takes a part away; it may raise, and is called again."""

    def __init__(
        self, tenants: Tenants, failpoints: Failpoints, parts: Mapping[str, Callable[[Tenant], Awaitable[None]]]
    ) -> None:
        self._tenants = tenants
        self._failpoints = failpoints
        self._parts = parts
        self._leaving: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """See VCHs off that are being deleted: what is left from before, and what comes."""
        self._tenants.leaving = self._begin
        try:
            async with self._tenants.following():
                yield
        finally:
            tasks = list(self._leaving.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, vch: str) -> None:
        if vch not in self._leaving:
            self._leaving[vch] = asyncio.create_task(self._take_away(vch))

    async def _take_away(self, vch: str) -> None:
        try:
            while (tenant := await self._found(vch)) is not None:
                for part, forget in self._parts.items():
                    await self._failpoints.hit(f"vch.{part}")
                    pause = FIRST_PAUSE_SECONDS
                    while not await self._done(tenant, part, forget):
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, LAST_PAUSE_SECONDS)
                await asyncio.sleep(FIRST_PAUSE_SECONDS)  # other processes may have other parts
        finally:
            del self._leaving[vch]

    async def _found(self, vch: str) -> Tenant | None:
        """The VCH, for as long as it is being deleted."""
        while True:
            try:
                found = await self._tenants.read(vch)
            except PortlayerError:
                log.exception("VCH %s could not be read; trying again", vch)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return found if found is not None and found.record.state == "deleting" else None

    async def _done(self, tenant: Tenant, part: str, forget: Callable[[Tenant], Awaitable[None]]) -> bool:
        """Whether the part has gone; also where others were faster, and the name may be another VCH's by now."""
        vch = tenant.record.name
        try:
            if await self._tenants.is_still(tenant):
                await forget(tenant)
        except (InUse, Unavailable, CheckFailed):
            log.info("%s of VCH %s still wait for others to go", part, vch)
        except PortlayerError:
            log.exception("%s of VCH %s could not be taken away; trying again", part, vch)
        else:
            return True
        return False
