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
from collections.abc import AsyncIterator, Callable, Sequence

from portlayer.components import keys
from portlayer.components.commit import outcome
from portlayer.components.commit.claims import Claims
from portlayer.components.commit.gathering import gather, look
from portlayer.components.commit.intents import Intent, Joined, Piece, read_intent
from portlayer.components.commit.locks import Locks
from portlayer.components.commit.steps import Steps
from portlayer.components.handles import Draft
from portlayer.components.records import Records, decode, encode, event, event_puts, put
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.interfaces.substrate import Substrate
from portlayer.model import plan as p
from portlayer.model.changes import CreateContainer
from portlayer.model.errors import Conflict, PortlayerError, Unavailable
from portlayer.model.execution import Committed, Observed
from portlayer.model.network import NetworkSpec

log = logging.getLogger(__name__)
FOREIGN_COMMIT_SECONDS = 60.0
Answer = asyncio.Future[list[Committed]]


class Engine:
    """Commits handles on one host's substrate.

    started is called with each (vch, container, incarnation) let go, ended with each (vch, container) that a
    commit stopped or whose program could not be executed. stuck is set when a commit has left an intent that
    could neither be finished nor undone.
    """

    def __init__(
        self, records: Records, substrate: Substrate, host: str, failpoints: Failpoints, lease_seconds: float
    ) -> None:
        self.records = records
        self.substrate = substrate
        self.host = host
        self.locks = Locks()
        self.stuck = asyncio.Event()
        self._stuck: set[str] = set()
        self.started: Callable[[str, str, str], None] = lambda *_: None
        self.ended: Callable[[str, str], None] = lambda *_: None
        self._failpoints = failpoints
        self._lease_seconds = lease_seconds
        self._store = records.store
        self._known_networks: set[str] = set()
        self._running: set[asyncio.Task[list[Committed]]] = set()

    async def commit(
        self, vch: str, drafts: Sequence[Draft], *, strict: bool = False, bump: bool = True
    ) -> list[Committed]:
        """All changes of *drafts* (one a container) as one. A caller that goes away does not cut it short."""
        await self.records.check_vch(vch)
        answer: Answer = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._commit(vch, drafts, strict, bump, answer))
        self._running.add(task)
        task.add_done_callback(lambda done: self._ended(done, answer))
        return await asyncio.shield(answer)

    def _ended(self, task: asyncio.Task[list[Committed]], answer: Answer) -> None:
        self._running.discard(task)
        if answer.done():
            if not task.cancelled() and task.exception() is not None:
                log.error("a commit failed after its answer", exc_info=task.exception())
        elif task.cancelled():
            answer.cancel()
        elif (error := task.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(task.result())

    async def drain(self) -> None:
        """Wait until no commit is under way."""
        while self._running:
            await asyncio.wait(self._running)

    def forget_network(self, network: str) -> None:
        """The host does not have it any more."""
        self._known_networks.discard(network)

    async def _commit(
        self, vch: str, drafts: Sequence[Draft], strict: bool, bump: bool, answer: Answer
    ) -> list[Committed]:
        containers = [draft.container for draft in drafts]
        if any(isinstance(change, CreateContainer) for draft in drafts for change in draft.changes):
            self.substrate.execution.expect()
        async with self.locks.hold(*containers):
            while True:
                receipts = await self._receipts(vch, drafts)
                if receipts:
                    return receipts
                found = await look(self._store, vch, containers)
                locked = [ident for ident, one in zip(containers, found, strict=True) if one.locked]
                if locked:
                    await self._wait_for_other(vch, locked[0])
                    continue
                driver = self.substrate.execution
                pieces = [
                    await gather(one, draft, driver, strict=strict, bump=bump)
                    for one, draft in zip(found, drafts, strict=True)
                ]
                unchanged = [
                    Check(keys.entity(vch, "containers", ident), one.record.revision if one.record else 0)
                    for ident, one in zip(containers, found, strict=True)
                ]
                result = await self._attempt(vch, tuple(pieces), unchanged, answer)
                if result is not None:
                    return result

    async def _receipts(self, vch: str, drafts: Sequence[Draft]) -> list[Committed]:
        rows = await self._store.get_many([keys.entity(vch, "receipts", draft.id) for draft in drafts])
        found = [decode(Committed, row.value) for row in rows if row is not None]
        if found and len(found) < len(drafts):
            raise Conflict("Some of these handles have been committed by another call already.", collisions=["handles"])
        return found

    async def _wait_for_other(self, vch: str, container: str) -> None:
        """Another process commits this container (or died doing so, and the reconciler will say)."""
        if not await self.records.until_gone(keys.entity(vch, "intents", container), FOREIGN_COMMIT_SECONDS):
            raise Unavailable("Another commit of this container is still under way.", retry_after_seconds=5)

    async def _attempt(
        self, vch: str, pieces: tuple[Piece, ...], unchanged: list[Check], answer: Answer
    ) -> list[Committed] | None:
        """One try; None where the containers changed under way and have to be looked at again."""
        claims = Claims(vch, self.host, self._lease_seconds)
        for piece in pieces:
            await claims.add(self.records, piece, self._known_networks)
        intent = Intent(
            id=pieces[0].handle,
            vch=vch,
            phase="prepared",
            pieces=pieces,
            frees=tuple(claims.frees),
            undo=tuple(claims.undo),
            finally_free=tuple({op.key: op for op in claims.finally_free}.values()),
        )
        networks = await self._networks(vch, pieces)
        steps = Steps(self.substrate, pieces, networks)
        first: list[Check | Empty] = [*unchanged, *claims.checks]
        locks = [Check(keys.entity(vch, "intents", piece.container), 0) for piece in pieces]
        takes = list({op.key: op.live() for op in claims.takes}.values())
        try:
            if any(piece.plan.before for piece in pieces):
                ops = [*takes, *self._lock(intent)]
                revision = await self._store.apply(Transaction((*first, *locks), ops, durable=False))
                first, takes = [], []
                locks = [Check(check.key, revision) for check in locks]
                await self._failpoints.hit("commit.intent")
                await self._before(intent, steps)
            observed = await outcome.observe(intent, steps.failures, self.substrate.execution)
        except CheckFailed as failure:
            reason = claims.explain(failure)
            if reason is not None:
                raise reason from None
            return None
        return await self._finish(intent, steps, observed, [*first, *locks], takes, claims, answer)

    async def _finish(
        self,
        intent: Intent,
        steps: Steps,
        observed: dict[str, Observed],
        checks: Sequence[Check | Empty],
        takes: list[Put | Delete],
        claims: Claims | None,
        answer: Answer | None = None,
    ) -> list[Committed] | None:
        """Transaction 2 and what follows. checks: those that transaction 1 has not made, and the locks."""
        locked = any(isinstance(check, Check) and "/intents/" in check.key and check.revision for check in checks)
        results = outcome.results(intent, observed)
        after = [step for piece in intent.pieces for step in piece.plan.after]
        frees = intent.frees if after else (*intent.frees, *intent.finally_free)
        ops = [*takes, *outcome.record_ops(intent, observed, results), *(op.live() for op in frees)]
        if after:
            ops += self._lock(outcome.committed_intent(intent))
        elif locked:
            ops += self._unlock(intent)
        try:
            await self._store.apply(Transaction(checks, ops))
        except CheckFailed as failure:
            if locked:
                await self._undo(intent, steps)
            reason = claims.explain(failure) if claims else None
            if reason is not None:
                raise reason from None
            return None
        except Unavailable:
            if not await self._landed(intent):
                await self._undo(intent, steps)
                raise
        self._known_networks.update(
            step.network for piece in intent.pieces for step in piece.plan.before if isinstance(step, p.MakeNetwork)
        )
        await self._failpoints.hit("commit.record")
        if after:
            results = await self._after(intent, steps, observed, results, answer)
        stopped = {piece.container for piece in intent.pieces if outcome.stop_of(piece) and not piece.removal}
        for result in results.values():
            if result.id in stopped or (result.start_error is not None and result.id in steps.failures):
                self.ended(intent.vch, result.id)
        return list(results.values())

    async def _tell_stuck(self, intent: Intent, step: p.AnyStep, error: Exception) -> None:
        """What could not be done or undone is told once, and tried again until it can."""
        name = next(piece.new.name for piece in intent.pieces if piece.container == step.container)
        told = event("container", "stuck", step.container, name, step=type(step).__name__, reason=str(error)[:500])
        if intent.id not in self._stuck:
            self._stuck.add(intent.id)
            with contextlib.suppress(PortlayerError):
                await self._store.apply(Transaction(ops=event_puts(intent.vch, told), durable=False))
        self.stuck.set()

    async def stuck_commits(self) -> int:
        """How many containers have a commit that nobody works on."""
        count = 0
        for vch in await self._store.range(keys.VCHS):
            rows = await self._store.range(keys.entities(keys.last(vch.key), "intents"))
            count += sum(not self.locks.held(keys.last(row.key)) for row in rows)
        return count

    async def _landed(self, intent: Intent) -> bool:
        """Whether transaction 2, whose answer was lost, happened."""
        piece = intent.pieces[0]
        return await self._store.get(keys.entity(intent.vch, "receipts", piece.handle)) is not None

    async def _before(self, intent: Intent, steps: Steps) -> None:
        done: list[p.AnyStep] = []
        ordered = [step for piece in intent.pieces for step in piece.plan.before]
        ordered.sort(key=lambda step: isinstance(step, p.Stop))
        try:
            for step in ordered:
                name = type(step).__name__
                done.append(step)
                await self._failpoints.hit(f"commit.before.{name}")
                await steps.do(step)
                await self._failpoints.hit(f"commit.done.{name}")
        except Exception as error:
            if outcome.stopped_something(done):
                log.warning("commit %s failed after a stop", intent.id)
            await self._undo(intent, steps, done)
            raise outcome.blame(error, done[-1]) from error

    async def _undo(self, intent: Intent, steps: Steps, done: Sequence[p.AnyStep] | None = None) -> None:
        """Undo in reverse. What cannot be undone now keeps its intent: the reconciler tries again."""
        if done is None:
            done = [step for piece in intent.pieces for step in piece.plan.before]
        for step in reversed(done):
            await self._failpoints.hit(f"commit.undo.{type(step).__name__}")
            try:
                await steps.undo(step)
            except Exception as error:
                log.exception("undo of %s failed; it will be tried again", type(step).__name__)
                await self._tell_stuck(intent, step, error)
                return
        back = [op.live() for op in intent.undo]
        await self._store.apply(Transaction(ops=[*back, *self._unlock(intent)], durable=False))

    async def _after(
        self,
        intent: Intent,
        steps: Steps,
        observed: dict[str, Observed],
        results: dict[str, Committed],
        answer: Answer | None = None,
    ) -> dict[str, Committed]:
        """Roll forward. A step that fails is tried again by the reconciler: the commit has succeeded.

        Where transaction 3 lets nothing go that others may wait for, *answer* is given before it.
        """
        for step in (step for piece in intent.pieces for step in piece.plan.after):
            name = type(step).__name__
            try:
                await self._failpoints.hit(f"commit.before.{name}")
                await steps.do(step)
            except Exception as error:
                log.exception("%s failed after the commit", name)
                if not isinstance(step, p.Release):
                    await self._tell_stuck(intent, step, error)
                    return results
                steps.failures[step.container] = outcome.release_failure(error)
            await self._failpoints.hit(f"commit.done.{name}")
        ops: list[Put | Delete] = [*(op.live() for op in intent.finally_free), *self._unlock(intent)]
        failed = {piece.container for piece in intent.pieces if piece.container in steps.failures}
        late = {
            container: outcome.failed_start(observed[container], steps.failures[container])
            for container in failed
            if observed[container].state == "running"
        }
        if late:
            results = outcome.results(intent, {**observed, **late})
            ops += outcome.late_failure_ops(intent, late, results)
        if answer is not None and not answer.done() and not steps.failures and not intent.finally_free:
            answer.set_result(list(results.values()))
        await self._store.apply(Transaction(ops=ops, durable=bool(late)))
        await self._failpoints.hit("commit.end")
        for piece in intent.pieces:
            if observed.get(piece.container) and piece.container not in late:
                self._announce(intent.vch, piece)
        return results

    def _announce(self, vch: str, piece: Piece) -> None:
        for step in piece.plan.after:
            if isinstance(step, p.Release):
                self.started(vch, piece.container, step.incarnation)

    def _lock(self, intent: Intent) -> list[Put | Delete]:
        leader, *others = (piece.container for piece in intent.pieces)
        joined = encode(Joined(leader=leader))
        return [
            put(keys.entity(intent.vch, "intents", leader), intent),
            *(Put(keys.entity(intent.vch, "intents", other), joined) for other in others),
        ]

    def _unlock(self, intent: Intent) -> list[Put | Delete]:
        return [Delete(keys.entity(intent.vch, "intents", piece.container)) for piece in intent.pieces]

    async def _networks(self, vch: str, pieces: Sequence[Piece]) -> dict[str, NetworkSpec]:
        wanted = {
            network
            for piece in pieces
            for spec in (piece.old, piece.new)
            if spec is not None and not piece.removal
            for network in spec.endpoints
        }
        if not wanted:
            return {}
        rows = await self._store.get_many([keys.entity(vch, "networks", network) for network in wanted])
        return {spec.id: spec for row in rows if row is not None for spec in (decode(NetworkSpec, row.value),)}

    async def recover(self, vch: str, container: str) -> None:
        """Finish or undo the intent under *container* that nobody works on any more."""
        record = await self._store.get(keys.entity(vch, "intents", container))
        if record is None:
            return
        intent = read_intent(record.value)
        if isinstance(intent, Joined):
            await self.recover(vch, intent.leader)
            return
        async with self.locks.hold(*(piece.container for piece in intent.pieces)):
            try:
                await self._recover(intent, record.revision)
            except PortlayerError:
                log.exception("commit %s can neither be finished nor undone now; it will be tried again", intent.id)
                self.stuck.set()

    async def _recover(self, intent: Intent, revision: int) -> None:
        steps = Steps(self.substrate, intent.pieces, await self._networks(intent.vch, intent.pieces))
        if intent.phase == "committed":
            observed = await outcome.recorded(self.records, intent)
            await self._after(intent, steps, observed, outcome.results(intent, observed))
        elif await outcome.past_no_return(intent, self.substrate.execution):
            await self._before(intent, steps)
            observed = await outcome.observe(intent, steps.failures, self.substrate.execution)
            locks = [Check(keys.entity(intent.vch, "intents", piece.container), revision) for piece in intent.pieces]
            await self._finish(intent, steps, observed, locks, [], None)
        else:
            await self._undo(intent, steps)

    @contextlib.asynccontextmanager
    async def alone(self, container: str) -> AsyncIterator[None]:
        """Hold *container* against commits of this process."""
        async with self.locks.hold(container):
            yield
