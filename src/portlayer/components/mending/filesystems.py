"""Root filesystems of containers with a process, whose mount somebody has taken away from the host.

The process has its own and notices nothing. What reads there on the host would find nothing, though, and a start that
mounts anew while the process is there would harm what both write: so it is the process's own that is mounted again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from portlayer.components.mending.common import Container, Mending
from portlayer.model.errors import PortlayerError, SubstrateFailed

log = logging.getLogger(__name__)
_REMEDY = "Its process keeps its own; the next start after its end mounts it anew, with all that was written."


class Filesystems:
    """Mounts them again; what cannot be mounted is told of once, and tried again."""

    def __init__(self, mending: Mending) -> None:
        self._mending = mending
        self._told: set[str] = set()

    async def check(self, batch: Sequence[Container]) -> None:
        """Those of the containers in *batch*."""
        having = {one.spec.id: one for one in batch if one.live and not self._mending.engine.locks.held(one.spec.id)}
        if not having:
            return
        try:
            missing = await self._mending.on.storage.missing([*having])
        except PortlayerError as error:
            log.warning("filesystems could not be looked at: %s", error)
            return
        self._told -= having.keys() - {*missing}
        for ident in missing:
            await self._mending.attempt(having[ident], self._mount_again(having[ident]))

    async def _mount_again(self, one: Container) -> None:
        on = self._mending.on
        async with self._mending.engine.unless_busy(one.vch, one.spec.id) as found:
            record = found.committed if found is not None else None
            if found is None or record is None or found.observed != one.observed:
                return
            if (await on.execution.observe(one.spec.id, one.live)).state in ("exited", "absent"):
                return
            if not await on.storage.missing([one.spec.id]):
                return
            try:
                await on.storage.make_rootfs(record.spec, one.live)
            except SubstrateFailed as error:
                await self._tell(one, error)
                return
        await self._mending.mended(one, "mount")

    async def _tell(self, one: Container, error: SubstrateFailed) -> None:
        if one.spec.id not in self._told:
            self._told.add(one.spec.id)
            log.warning("the mount of container %s cannot be mended: %s", one.spec.id, error)
            await self._mending.tell(one, "unrepaired", lost="mount", reason=error.detail[:500], remedy=_REMEDY)
