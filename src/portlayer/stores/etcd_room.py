"""Room in an etcd whose quota is used up: its history goes, its files are written anew, and its alarm is disarmed.

An etcd that is full refuses all writes until somebody has done these three things. History is what fills it, for of our
records each has its end; so they help unless there are too many records, or others use the same etcd.

    compact       all history, of the whole cluster; from here on file pages are free, the file is as large as before
    defragment    each member, one after the other, for the quota is of the size of its file; it stands still meanwhile
    disarm        where a tenth of the file has become free; else the alarm would be back at once
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from portlayer.model.errors import PortlayerError
from portlayer.stores import etcd_messages as m
from portlayer.stores.etcd_client import Client, HistoryGone

SPREAD_SECONDS = 2.0
"""Not all processes begin at once."""
OTHERS_SECONDS = 30.0
"""How long a process that has compacted first may take for the rest."""
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 10.0, 600.0
STATUS_SECONDS = 5.0
DEFRAGMENT_SECONDS = 300.0
ENOUGH = 0.9
"""What part of its size before a member may have afterwards."""
BY_HAND = "etcdctl defrag; etcdctl alarm disarm"

log = logging.getLogger(__name__)


class _Member(NamedTuple):
    """at: the number of its endpoint; size: of its file; leads: the cluster."""

    at: int
    size: int
    leads: bool


class NoRoom(Exception):
    """It cannot be made; why, and what an operator can do."""


class Room:
    """Makes room in the cluster of *client*, whenever that says that it is full."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._compacted = 0

    async def keep(self) -> None:
        """See to it, for ever; at growing intervals, where it cannot be made or does not last."""
        clock = asyncio.get_running_loop().time
        pause = made = 0.0
        while True:
            await self._client.full.wait()
            log.error("etcd's quota is used up: nothing can be written until room has been made")
            if clock() > made + LAST_PAUSE_SECONDS:
                pause = 0.0
            while True:
                await asyncio.sleep(random.uniform(0.5, 1) * pause)  # noqa: S311
                pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LAST_PAUSE_SECONDS)
                if await self._is_made():
                    break
            made = clock()
            self._client.full.clear()

    async def _is_made(self) -> bool:
        """Whether there is room again, made by us or another."""
        try:
            if not await self._alarms():
                return True
            await self._make()
        except NoRoom as reason:
            log.error(  # noqa: TRY400
                "etcd is full, and room cannot be made: %s", reason
            )
        except PortlayerError as error:
            log.error(  # noqa: TRY400
                "room could not be made in etcd just now: %s", error
            )
        else:
            return not await self._alarms()
        return False

    async def _make(self) -> None:
        await self._compact()
        alarms = await self._alarms()
        if not alarms:
            return
        before = await self._sizes()
        if strange := [member for member in alarms if member not in before]:
            raise NoRoom(
                f"{len(strange)} of the members that are full are none of the configured endpoints, or do not answer; "
                f"there: {BY_HAND}"
            )
        for one in sorted(before.values(), key=lambda one: one.leads):
            await self._defragment(one)
        after = await self._sizes()
        for member in alarms:
            size, left = before[member].size, after[member].size if member in after else before[member].size
            if left > ENOUGH * size:
                raise NoRoom(f"{left} bytes of {size} are records that are needed; raise --quota-backend-bytes")
        for member in alarms:
            request = m.CLASSES["AlarmRequest"](action=m.DISARM, memberID=member, alarm=m.NO_SPACE)
            await self._client.call("alarm", request)
        log.warning(
            "etcd has room again: %s", ", ".join(f"{before[one].size} -> {after[one].size} bytes" for one in alarms)
        )

    async def _compact(self) -> None:
        """All history before now: what reads at this instant still can."""
        at = int((await self._client.call("range", m.Range(key=b"\0"))).header.revision)
        await asyncio.sleep(random.uniform(0, SPREAD_SECONDS))  # noqa: S311
        try:
            await self._client.call("compact", m.CLASSES["CompactionRequest"](revision=at, physical=True))
        except HistoryGone:
            if at != self._compacted:
                await self._leave_it_to_others()
        self._compacted = at

    async def _leave_it_to_others(self) -> None:
        """Another process has just compacted, and does the rest, unless it dies."""
        until = asyncio.get_running_loop().time() + OTHERS_SECONDS
        while await self._alarms() and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110
            await asyncio.sleep(1)

    async def _alarms(self) -> list[int]:
        """The members whose quota is used up."""
        found = await self._client.call("alarm", m.CLASSES["AlarmRequest"](action=m.GET_ALARMS, alarm=m.NO_SPACE))
        return [int(one.memberID) for one in found.alarms if one.alarm == m.NO_SPACE]

    async def _sizes(self) -> dict[int, _Member]:
        """The members at the configured endpoints that answer, by their ids."""
        request = m.CLASSES["StatusRequest"]()
        asked = [self._client.ask(at, "status", request, STATUS_SECONDS) for at in range(len(self._client.endpoints))]
        answers: Sequence[Any] = await asyncio.gather(*asked, return_exceptions=True)
        return {
            int(answer.header.member_id): _Member(at, int(answer.dbSize), answer.leader == answer.header.member_id)
            for at, answer in enumerate(answers)
            if not isinstance(answer, BaseException)
        }

    async def _defragment(self, member: _Member) -> None:
        try:
            await self._client.ask(member.at, "defragment", m.CLASSES["DefragmentRequest"](), DEFRAGMENT_SECONDS)
        except PortlayerError as error:
            if "permission denied" in error.detail:
                raise NoRoom(f"the user lacks etcd's role root, which defragmenting takes: {BY_HAND}") from None
            raise
