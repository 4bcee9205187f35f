"""The commit protocol.

    gather     replay each handle's changes on the newest committed state; a conflict ends here
    intent     transaction 1: locks, claims (names, uses, addresses) and what is to be done
    before     the steps that can fail, each with its undo; a stop comes last
    record     transaction 2: new records, observed states, receipts, events
    after      what only rolls forward: let the process go, retire, remove
    done       transaction 3: the locks go, and what removal frees

A plan without `before` skips transaction 1; one without `after` ends with transaction 2. Only transaction 2 is durable:
what the others say can be told again from the substrate, and the store keeps their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from portlayer.components import keys
from portlayer.components.admission import Gate, Place
from portlayer.components.commit.claims import Claims, taken_of
from portlayer.components.commit.figures import Figures
from portlayer.components.commit.gathering import Found, gather, look
from portlayer.components.commit.intents import Held, Intent, Once, Piece
from portlayer.components.commit.recovery import Recovery
from portlayer.components.commit.room import Room
from portlayer.components.commit.work import Answer, Work
from portlayer.components.handles import Draft
from portlayer.components.layers import Layers
from portlayer.components.locks import Locks
from portlayer.components.membership import Deposed, Membership
from portlayer.components.quota import Quotas
from portlayer.components.records import Records, decode
from portlayer.components.replays import Replay
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Check, CheckFailed, Empty, Transaction
from portlayer.interfaces.substrate import Substrate
from portlayer.model.changes import CreateContainer
from portlayer.model.errors import Conflict, HandleInvalid, PortlayerError, Unavailable
from portlayer.model.execution import Committed, CommittedMany
from portlayer.scope import scope

log = logging.getLogger(__name__)
LAST_SECONDS = 2.0
"""How long a process that stops waits for commits of which no caller waits for the answer."""


class Asked(NamedTuple):
    """One commit as its caller wants it: see `Engine.commit`."""

    vch: str
    drafts: Sequence[Draft]
    strict: bool
    bump: bool
    once: Once | None

    @property
    def containers(self) -> list[str]:
        return [draft.container for draft in self.drafts]

    @property
    def remembered(self) -> list[str]:
        """The keys under which its success is remembered: of each handle, and what it is to happen once by."""
        receipts = [keys.entity(self.vch, "receipts", draft.id) for draft in self.drafts]
        return receipts if self.once is None else [*receipts, self.once.key]


class Engine:
    """Commits handles on one host's substrate. work carries out, recovery finishes what was left."""

    def __init__(
        self,
        records: Records,
        quotas: Quotas,
        substrate: Substrate,
        membership: Membership,
        failpoints: Failpoints,
        lease_seconds: float,
        gate: Gate,
        figures: Figures,
        room: Room,
        layers: Layers,
    ) -> None:
        self.records = records
        self.quotas = quotas
        self.substrate = substrate
        self.membership = membership
        self.host = membership.host
        self.locks = Locks()
        self.work = Work(records, substrate, membership, failpoints, figures, layers)
        self.recovery = Recovery(records, self.work, substrate.execution, membership, self.locks)
        self._lease_seconds = lease_seconds
        self._gate = gate
        self._figures = figures
        self._room = room
        self.layers = layers
        self._store = records.store
        self._running: set[asyncio.Task[list[Committed]]] = set()

    async def commit(
        self,
        vch: str,
        drafts: Sequence[Draft],
        *,
        strict: bool = False,
        bump: bool = True,
        patient: bool = False,
        once: Once | None = None,
    ) -> list[Committed]:
        """All changes of *drafts* (one a container) as one. A caller that goes away does not cut it short; before its
        turn has come, it has done nothing and is forgotten. patient: of our own accord, so never refused. once: what
        has been committed under it is the answer to all that come after.

        In a VCH that is being deleted nothing is created; what is there can be changed, and so removed.
        """
        containers = [draft.container for draft in drafts]
        began = time.perf_counter()
        with scope(vch=vch, container=" ".join(containers)), self._figures.commit(vch, containers):
            place = await self._admitted(vch, patient=patient)
            answer: Answer = asyncio.get_running_loop().create_future()
            answer.add_done_callback(lambda given: self._figures.answered(given, began))
            asked = Asked(vch, drafts, strict, bump, once)
            task = asyncio.create_task(self._commit(asked, answer, place))
            self._running.add(task)
            self.membership.bind(task)
            task.add_done_callback(lambda done: self._ended(done, answer, place))
            return await asyncio.shield(answer)

    async def _admitted(self, vch: str, *, patient: bool) -> Place:
        try:
            await self.membership.ensure()
            with self._figures.phase("queue"):
                return await self._gate.admit(vch, patient=patient)
        except PortlayerError as error:
            self._figures.turned_away(error)
            raise

    def _ended(self, task: asyncio.Task[list[Committed]], answer: Answer, place: Place) -> None:
        self._running.discard(task)
        place.leave()
        error = Deposed() if task.cancelled() else task.exception()
        if isinstance(error, Deposed | Unavailable):
            self.work.stuck.set()  # it may have left an intent
        if answer.done():
            if error is not None and not isinstance(error, Deposed):
                log.error("a commit failed after its answer", exc_info=error)
        elif isinstance(error, Deposed):
            answer.set_exception(
                Unavailable(
                    "This process was cut off from the others; what it had begun is finished or undone. Commit the "
                    "same handle again.",
                    retry_after_seconds=1,
                )
            )
            answer.exception()  # its caller may have gone
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(task.result())

    async def drain(self, seconds: float = LAST_SECONDS) -> None:
        """Wait until no commit is under way; those that are after *seconds* are left to who finds them, as after a
        death."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def forget_network(self, network: str) -> None:
        """The host does not have it any more."""
        self.work.known_networks.discard(network)

    async def _commit(self, asked: Asked, answer: Answer, place: Place) -> list[Committed]:
        if any(isinstance(change, CreateContainer) for draft in asked.drafts for change in draft.changes):
            self.substrate.execution.expect()
        while True:
            async with self.locks.hold(*asked.containers, waiting=lambda: self._waiting(place)):
                done = await self._try(asked, answer, place)
            if isinstance(done, list):
                return done
            async with self._waiting(place):
                await self.recovery.settle(asked.vch, done)

    @contextlib.asynccontextmanager
    async def _waiting(self, place: Place) -> AsyncIterator[None]:
        """Within it, a commit that has not done anything yet waits for another one."""
        with self._figures.phase("wait"):
            async with place.parked():
                yield

    async def _try(self, asked: Asked, answer: Answer, place: Place) -> list[Committed] | str:
        """The result; or the id of a container with an intent that somebody else has left, or works on."""
        vch, drafts = asked.vch, asked.drafts
        while True:
            with self._figures.phase("gather"):
                receipts = await self._receipts(asked)
                if receipts:
                    # What another process has written may not have come to the disk yet; before a later one it has.
                    await self._store.apply(Transaction())
                    return receipts
                found = await look(self._store, vch, asked.containers)
                locked = [one.container for one in found if one.locked]
                if locked:
                    return locked[0]
                driver = self.substrate.execution
                pieces = [
                    await gather(one, draft, driver, strict=asked.strict, bump=asked.bump)
                    for one, draft in zip(found, drafts, strict=True)
                ]
                self._check_host(pieces)
            unchanged = [check for one in found for check in one.unchanged]
            unchanged += [Check(key, 0) for key in asked.remembered]
            async with contextlib.AsyncExitStack() as turns:
                await turns.enter_async_context(self.quotas.turn(vch, *taken_of(pieces)))
                await turns.enter_async_context(self._room.turn(pieces))
                result = await self._attempt(asked, tuple(pieces), unchanged, answer, place, turns.aclose)
            if result is not None:
                return result
            await self._look_at_vch(vch, drafts)

    async def _look_at_vch(self, vch: str, drafts: Sequence[Draft]) -> None:
        """Raises HandleInvalid where another VCH has taken the name: what was composed for one is not made in it."""
        self.records.tenants.forget(vch)
        new = [draft for draft in drafts if not draft.base]
        if new and {draft.vch for draft in new} != {(await self.records.check_vch(vch)).id}:
            raise HandleInvalid

    def _check_host(self, pieces: Sequence[Piece]) -> None:
        """Steps are done by processes of the container's host alone."""
        for piece in pieces:
            if piece.new.host != self.host:
                raise Unavailable(
                    f"{piece.new.name} is on host {piece.new.host}; commit it there.", retry_after_seconds=5
                )

    async def _receipts(self, asked: Asked) -> list[Committed]:
        """What was committed before, by the handles or under the key. Raises Conflict where that is of some alone."""
        rows = await self._store.get_many(asked.remembered)
        if asked.once is not None and (first := rows.pop()) is not None:
            replay = decode(Replay, first.value)
            return list(replay.answer_to(asked.once.request, CommittedMany).containers)
        found = [decode(Committed, row.value) for row in rows if row is not None]
        if found and len(found) < len(asked.drafts):
            raise Conflict("Some of these handles have been committed by another call already.", collisions=["handles"])
        return found

    async def _attempt(
        self,
        asked: Asked,
        pieces: tuple[Piece, ...],
        unchanged: list[Check],
        answer: Answer,
        place: Place,
        over: Callable[[], Awaitable[None]],
    ) -> list[Committed] | None:
        """One try; None where the containers, or what is left of the quota, changed under way: look again.

        over: called once what the quota and the host's room allow is taken.
        """
        vch = asked.vch
        with self._figures.phase("claims"):
            claims = await self._claims(vch, pieces, unchanged)
        intent = Intent(
            id=pieces[0].handle,
            owner=self.membership.id,
            host=self.host,
            vch=vch,
            phase="prepared",
            pieces=pieces,
            frees=tuple(claims.frees),
            undo=tuple(claims.undo),
            finally_free=tuple({op.key: op for op in claims.finally_free}.values()),
            once=asked.once,
        )
        self.membership.check(intent.owner)
        held = Held(intent)
        steps = await self.work.steps(vch, pieces, place.aside)
        first: list[Check | Empty] = claims.checks
        takes = list({op.key: op.live() for op in claims.takes}.values())
        if any(piece.plan.before for piece in pieces):
            try:
                await self.work.lock(held, first, takes)
            except CheckFailed as failure:
                reason = claims.explain(failure)
                if reason is not None:
                    raise reason from None
                return None
            first, takes = [], []
            await over()
        observed = await self.work.before(held, steps)
        return await self.work.finish(held, steps, observed, first, takes, claims, answer)

    async def _claims(self, vch: str, pieces: Sequence[Piece], unchanged: Sequence[Check]) -> Claims:
        claims = Claims(vch, self.host, self._lease_seconds)
        for check in unchanged:
            claims.look_again(check)
        for piece in pieces:
            await claims.add(self.records, piece, self.work.known_networks)
        await claims.add_quota(self.quotas, pieces)
        claims.add_room(await self._room.claim(pieces))
        return claims

    @contextlib.asynccontextmanager
    async def unless_busy(self, vch: str, container: str) -> AsyncIterator[Found | None]:
        """As `alone`, without waiting: None where a commit of *container* is under way in any process."""
        if self.locks.held(container):
            yield None
            return
        async with self.locks.hold(container):
            (found,) = await look(self._store, vch, [container])
            yield None if found.locked else found

    @contextlib.asynccontextmanager
    async def alone(self, vch: str, container: str) -> AsyncIterator[Found]:
        """Hold *container* while no commit of it is under way in any process; what is there.

        A transaction that relies on it demands `Found.unchanged`: other processes do not wait for this one.
        """
        while True:
            async with self.locks.hold(container):
                (found,) = await look(self._store, vch, [container])
                if not found.locked:
                    yield found
                    return
            await self.recovery.settle(vch, container, limit=None)
