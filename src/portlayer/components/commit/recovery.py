"""What becomes of an intent whose process does not work on it: it died, or could neither finish nor undo it.

Each intent names the process that owns it. While that lives, others wait. Once it is dead, a process of the same host
takes the intent over by compare-and-swap, writing itself in, so that of several that find it one alone acts.
"""

from __future__ import annotations

import contextlib
import logging

from portlayer.components import keys
from portlayer.components.commit import outcome
from portlayer.components.commit.intents import Held, Intent, Joined, read_intent
from portlayer.components.commit.work import Work
from portlayer.components.locks import Locks
from portlayer.components.membership import Deposed, Membership
from portlayer.components.records import Records
from portlayer.interfaces.substrate import ExecutionDriver
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.model.execution import replace
from portlayer.scope import scope

log = logging.getLogger(__name__)
STUCK_SECONDS = 60.0
"""How long a commit waits for one of this process that can neither be finished nor undone."""
LOOK_SECONDS = 1.0
"""How often who waits looks whether the other process lives."""


class Recovery:
    """Waits for the intents of others, and finishes or undoes those that nobody works on."""

    def __init__(
        self, records: Records, work: Work, driver: ExecutionDriver, membership: Membership, locks: Locks
    ) -> None:
        self._records = records
        self._store = records.store
        self._work = work
        self._driver = driver
        self._membership = membership
        self._locks = locks

    async def settle(self, vch: str, container: str, limit: float | None = STUCK_SECONDS) -> None:
        """Return when *container* has no intent any more. Hold no lock meanwhile.

        As long as its owner lives, that takes as long as it takes; a dead one of this host is replaced.

        Raises:
            Unavailable: its owner is dead and of another host; or it is this process's own, and stuck past *limit*
                seconds (None: no end).
        """
        waited = 0.0
        while (held := await self._read(vch, container)) is not None:
            if held.intent.owner not in await self._membership.living():
                if held.intent.host != self._membership.host:
                    raise Unavailable(
                        f"A commit of this container was cut short on host {held.intent.host}, which is away; it is "
                        "finished or undone when that is back.",
                        retry_after_seconds=5,
                    )
                await self.recover(vch, container)
            elif held.intent.owner == self._membership.id and limit is not None and waited >= limit:
                raise Unavailable("Another commit of this container is still under way.", retry_after_seconds=5)
            if await self._records.until_gone(keys.entity(vch, "intents", container), LOOK_SECONDS):
                return
            waited += LOOK_SECONDS

    async def recover_all(self) -> None:
        """Finish or undo all commits of this host that nobody works on."""
        for vch in await self._vchs():
            for row in await self._store.range(keys.entities(vch, "intents")):
                if not self._locks.held(keys.last(row.key)):
                    await self.recover(vch, keys.last(row.key))

    async def recover(self, vch: str, container: str) -> None:
        """Finish or undo the intent under *container*, where it is for this process to do so."""
        with scope(vch=vch, container=container):
            await self._recover(vch, container)

    async def _recover(self, vch: str, container: str) -> None:
        try:
            held = await self._read(vch, container)
        except Unavailable as error:
            log.error("a commit cannot be looked at, and is tried again: %s", error)  # noqa: TRY400
            self._work.stuck.set()
            return
        if held is None or not await self._ours(held.intent):
            return
        async with self._locks.hold(*held.containers):
            found = await self._read(vch, container)
            if found is None or found.containers != held.containers or not await self._ours(found.intent):
                return
            try:
                await self._take_over(found)
                await self._carry_out(found)
            except Deposed:
                log.warning("commit %s is left to another process", found.intent.id)
            except PortlayerError:
                log.exception(
                    "commit %s can neither be finished nor undone now; it will be tried again", found.intent.id
                )
                self._work.stuck.set()

    async def abandoned(self) -> int:
        """How many containers have a commit that nobody works on."""
        count = 0
        living: frozenset[str] | None = None
        for vch in await self._vchs():
            for row in await self._store.range(keys.entities(vch, "intents")):
                if living is None:
                    living = await self._membership.living()
                held = None
                with contextlib.suppress(Unavailable):  # of a newer process, which it is for to judge
                    held = await self._read(vch, keys.last(row.key))
                if held is None:
                    continue
                mine = held.intent.owner == self._membership.id
                count += held.intent.owner not in living or (mine and not self._locks.held(keys.last(row.key)))
        return count

    async def _vchs(self) -> list[str]:
        return [keys.last(row.key) for row in await self._store.range(keys.VCHS)]

    async def _read(self, vch: str, container: str) -> Held | None:
        record = await self._store.get(keys.entity(vch, "intents", container))
        if record is None:
            return None
        intent = read_intent(record.value)
        return await self._read(vch, intent.leader) if isinstance(intent, Joined) else Held(intent, record.revision)

    async def _ours(self, intent: Intent) -> bool:
        """Whether it is for this process: its own, or of a dead one of this host."""
        if intent.host != self._membership.host:
            return False
        return intent.owner == self._membership.id or intent.owner not in await self._membership.living()

    async def _take_over(self, held: Held) -> None:
        me = self._membership.id
        self._membership.check(me)
        if held.intent.owner != me:
            log.warning("commit %s of process %s, which is dead, is taken over", held.intent.id, held.intent.owner)
        held.intent = replace(held.intent, owner=me)
        await self._work.fence(held)

    async def _carry_out(self, held: Held) -> None:
        """Forward, where there is no way back; else back."""
        intent = held.intent
        steps = await self._work.steps(intent.vch, intent.pieces)
        if intent.phase == "committed":
            observed = await outcome.recorded(self._records, intent)
            await self._work.after(held, steps, observed, outcome.results(intent, observed), again=True)
        elif await outcome.past_no_return(intent, self._driver):
            observed = await self._work.before(held, steps)
            await self._work.finish(held, steps, observed)
        else:
            await self._work.undo(held, steps)
