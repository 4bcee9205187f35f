"""The work of a commit once it is planned: its steps, transactions 2 and 3, and the undo. Commit and recovery share it.

Before each step, and in each transaction, the process makes sure that the intent is still its own; where it is not, it
stops where it stands (Deposed): whoever has taken the intent over finishes or undoes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from portlayer.components import keys
from portlayer.components.commit import outcome
from portlayer.components.commit.claims import Claims
from portlayer.components.commit.figures import Figures
from portlayer.components.commit.intents import Held, Intent, Piece
from portlayer.components.commit.steps import Steps
from portlayer.components.layers import Layers
from portlayer.components.membership import Deposed, Membership
from portlayer.components.records import Records, decode, event, event_puts
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Check, CheckFailed, Delete, Empty, Put, Transaction
from portlayer.interfaces.substrate import StartFailure, Substrate
from portlayer.model import plan as p
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.model.execution import Committed, Observed
from portlayer.model.network import NetworkSpec

log = logging.getLogger(__name__)
Answer = asyncio.Future[list[Committed]]


class Work:
    """Carries out intents on one host's substrate.

    started is called with each (vch, container, incarnation) let go, ended with each (vch, container) that a
    commit stopped or whose program could not be executed. stuck is set when an intent was left that could neither be
    finished nor undone. known_networks: those that this host is recorded to have.
    """

    def __init__(
        self,
        records: Records,
        substrate: Substrate,
        membership: Membership,
        failpoints: Failpoints,
        figures: Figures,
        layers: Layers,
    ) -> None:
        self.started: Callable[[str, str, str], None] = lambda *_: None
        self.ended: Callable[[str, str], None] = lambda *_: None
        self.stuck = asyncio.Event()
        self.known_networks: set[str] = set()
        self._told: set[str] = set()
        self._store = records.store
        self._substrate = substrate
        self._membership = membership
        self._failpoints = failpoints
        self._figures = figures
        self._layers = layers

    async def steps(
        self,
        vch: str,
        pieces: tuple[Piece, ...],
        waiting: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> Steps:
        """What does and undoes the steps of *pieces*. waiting: see Steps."""
        return Steps(self._substrate, pieces, await self._networks(vch, pieces), self._layers, waiting)

    async def lock(self, held: Held, checks: Sequence[Check | Empty], takes: Sequence[Put | Delete]) -> None:
        """Transaction 1."""
        ops = [*takes, *held.puts(held.intent)]
        with self._figures.phase("transaction 1"):
            held.revision = await self._store.apply(Transaction((*checks, *held.checks), ops, durable=False))
        await self._failpoints.hit("commit.intent")

    async def before(self, held: Held, steps: Steps) -> dict[str, Observed]:
        """The steps that can fail; what is observed then. Undone where one has failed."""
        ordered = [step for piece in held.intent.pieces for step in piece.plan.before]
        stops = [step for step in ordered if isinstance(step, p.Stop)]
        done: list[p.AnyStep] = []
        try:
            with self._figures.phase("before"):
                for step in ordered:
                    if not isinstance(step, p.Stop):
                        done.append(step)
                        await self._do(held, steps, step)
        except Deposed:
            raise
        except Exception as error:
            await self.undo(held, steps, done)
            raise outcome.blame(error, done[-1]) from error
        if stops:
            await self._stop(held, steps, stops, done)
        return await outcome.observe(held.intent, steps.failures, self._substrate.execution)

    async def _stop(self, held: Held, steps: Steps, stops: Sequence[p.Stop], done: Sequence[p.AnyStep]) -> None:
        """All of them at once. Where one has done its work there is no way back any more: what another cannot do now
        is tried again until it can, and the commit is whole then."""
        with self._figures.phase("stop"):
            async with steps.asks_for_time(stops):
                ends = await asyncio.gather(*(self._do(held, steps, stop) for stop in stops), return_exceptions=True)
        for end in ends:
            if isinstance(end, Deposed | asyncio.CancelledError):
                raise end
        failed = [(stop, end) for stop, end in zip(stops, ends, strict=True) if isinstance(end, Exception)]
        if not failed:
            return
        stop, error = failed[0]
        if not await outcome.past_no_return(held.intent, self._substrate.execution):
            await self.undo(held, steps, [*done, *stops])
            raise outcome.blame(error, stop) from error
        await self._tell_stuck(held.intent, stop, error)
        raise outcome.no_way_back(error, stop) from error

    async def _do(self, held: Held, steps: Steps, step: p.AnyStep) -> None:
        name = type(step).__name__
        await self._failpoints.hit(f"commit.before.{name}")
        self._membership.check(held.intent.owner)
        with self._figures.step(name, step.container):
            await steps.do(step)
        await self._failpoints.hit(f"commit.done.{name}")

    async def finish(
        self,
        held: Held,
        steps: Steps,
        observed: dict[str, Observed],
        checks: Sequence[Check | Empty] = (),
        takes: Sequence[Put | Delete] = (),
        claims: Claims | None = None,
        answer: Answer | None = None,
    ) -> list[Committed] | None:
        """Transaction 2 and what follows. checks, takes: those that transaction 1 has not made.

        None where the containers changed under way and have to be looked at again.
        """
        intent, locked = held.intent, held.revision > 0
        results = outcome.results(intent, observed)
        committed = outcome.committed_intent(intent, steps.failures)
        after = [step for piece in committed.pieces for step in piece.plan.after]
        frees = intent.frees if after else (*intent.frees, *intent.finally_free)
        last = {op.key for op in frees}  # of what a commit without transaction 1 takes and changes again
        ops = [op for op in takes if op.key not in last]
        ops += [*outcome.record_ops(intent, observed, results), *(op.live() for op in frees)]
        if after:
            ops += held.puts(committed)
        elif locked:
            ops += held.deletes()
        # While a process is let go the disk is waited for: what a power failure takes of that is the process, too.
        overlapping = bool(after) and isinstance(after[0], p.Release)
        once = [Check(intent.once.key, 0)] if locked and intent.once is not None else []
        second = Transaction((*checks, *once, *held.checks), ops, durable=not overlapping)
        if not await self._record(held, steps, second, claims, frozenset(check.key for check in once)):
            return None
        self.known_networks.update(
            step.network for piece in intent.pieces for step in piece.plan.before if isinstance(step, p.MakeNetwork)
        )
        await self._failpoints.hit("commit.record")
        failed = set(steps.failures)
        if after:
            held.intent = committed
            synced = self._syncing() if overlapping else None
            with self._figures.phase("after"):
                results = await self.after(held, steps, observed, results, answer, synced=synced)
            if synced is not None:
                await synced
        for piece in intent.pieces:
            if not piece.removal and (piece.container in failed or outcome.stop_of(piece)):
                self.ended(intent.vch, piece.container)
        return list(results.values())

    async def _record(
        self, held: Held, steps: Steps, second: Transaction, claims: Claims | None, once: frozenset[str]
    ) -> bool:
        """Whether transaction 2 has happened; where it has not, all is undone, and is to be looked at again. once: the
        key under which another commit may have been faster."""
        locked = held.revision > 0
        try:
            with self._figures.phase("transaction 2"):
                held.revision = await self._store.apply(second)
        except CheckFailed as failure:
            if once and failure.keys == once:
                await self.undo(held, steps)
                return False
            if locked:
                raise Deposed from None
            if claims is not None and (reason := claims.explain(failure)) is not None:
                raise reason from None
            return False
        except Unavailable:
            if not await self._happened(held):
                if locked and not any(outcome.stop_of(piece) for piece in held.intent.pieces):
                    await self.undo(held, steps)
                raise  # what has stopped stays so: whoever finds the intent goes forward
        return True

    async def undo(self, held: Held, steps: Steps, done: Sequence[p.AnyStep] | None = None) -> None:
        """Undo in reverse. What cannot be undone now keeps its intent: the observer tries again."""
        if done is None:
            done = [step for piece in held.intent.pieces for step in piece.plan.before]
        with self._figures.phase("undo"):
            await self._undo(held, steps, done)

    async def _undo(self, held: Held, steps: Steps, done: Sequence[p.AnyStep]) -> None:
        for step in reversed(done):
            name = type(step).__name__
            self._membership.check(held.intent.owner)
            try:
                await self._failpoints.hit(f"commit.undo.{name}")
                with self._figures.undoing(name, step.container):
                    await steps.undo(step)
            except Exception as error:
                log.exception("undo of %s failed; it will be tried again", name)
                await self._tell_stuck(held.intent, step, error)
                return
        await self._unlock(held, [op.live() for op in held.intent.undo])

    async def after(
        self,
        held: Held,
        steps: Steps,
        observed: dict[str, Observed],
        results: dict[str, Committed],
        answer: Answer | None = None,
        *,
        synced: asyncio.Future[None] | None = None,
        again: bool = False,
    ) -> dict[str, Committed]:
        """Roll forward. A step that fails is tried again by the observer: the commit has succeeded.

        Where transaction 3 lets nothing go that others may wait for, *answer* is given before it. synced: what has to
        be waited for before an answer, and before anything but a release. again: some may have been done before.
        """
        intent = held.intent
        late: dict[str, Observed] = {}
        for step in (step for piece in intent.pieces for step in piece.plan.after):
            try:
                failure = await self._forward(held, steps, step, synced, again=again)
            except Deposed:
                raise
            except Exception as error:
                log.exception("%s failed after the commit", type(step).__name__)
                await self._tell_stuck(intent, step, error)
                return results
            if failure is not None:
                late[step.container] = outcome.failed_start(observed[step.container], failure)
            await self._failpoints.hit(f"commit.done.{type(step).__name__}")
        ops: list[Put | Delete] = [op.live() for op in intent.finally_free]
        if late:
            results = outcome.results(intent, {**observed, **late})
            ops += outcome.late_failure_ops(intent, late, results)
        if answer is not None and not answer.done() and not late and not intent.finally_free:
            if synced is not None:
                await synced
            answer.set_result(list(results.values()))
        try:
            await self._unlock(held, ops, durable=bool(late))
        except Unavailable as error:
            log.warning("the end of commit %s cannot be written yet; it will be: %s", intent.id, error)
            self.stuck.set()
            return results
        await self._failpoints.hit("commit.end")
        for container, incarnation in outcome.released(intent):
            await self._tell_of_start(intent.vch, container, incarnation, runs=container not in late)
        return results

    async def _forward(
        self, held: Held, steps: Steps, step: p.AnyStep, synced: asyncio.Future[None] | None, *, again: bool
    ) -> StartFailure | None:
        """One step of `after`; why a process does not run that it let go. synced, again: see `after`."""
        name = type(step).__name__
        await self._failpoints.hit(f"commit.before.{name}")
        self._membership.check(held.intent.owner)
        if isinstance(step, p.Release):
            failure = await self._release(steps, step, again=again)
            if failure is not None:
                await steps.withdraw(step.container)
            return failure
        if synced is not None:
            await synced
        with self._figures.step(name, step.container):
            await steps.do(step)
        return None

    async def _tell_of_start(self, vch: str, container: str, incarnation: str, *, runs: bool) -> None:
        if runs:
            self.started(vch, container, incarnation)
            return
        with contextlib.suppress(PortlayerError):  # then it is the reconciler's
            await self._substrate.execution.remove(container, incarnation)
        self.ended(vch, container)

    def _syncing(self) -> asyncio.Future[None]:
        """Transaction 2 on its way to the disk."""
        synced = asyncio.ensure_future(self._store.sync())
        synced.add_done_callback(lambda done: done.cancelled() or done.exception())  # who waits for it may be cut off
        return synced

    async def _release(self, steps: Steps, step: p.Release, *, again: bool) -> StartFailure | None:
        """Let the process go; why it does not run, where it cannot.

        Where that raises, what the substrate says is the truth: what has run has a true end, which is never replaced by
        a failure of ours. again: it may have run, and be gone without a trace (a reboot); its end is recorded as such.
        """
        try:
            with self._figures.step("Release", step.container):
                await steps.do(step)
        except Exception as error:
            seen = await self._substrate.execution.observe(step.container, step.incarnation)
            if seen.state in ("running", "paused", "exited") or (again and seen.state == "absent"):
                log.warning("container %s was let go, though its Release failed: %s", step.container, error)
                return None
            log.exception("container %s could not be let go", step.container)
            return outcome.release_failure(error)
        return steps.failures.get(step.container)

    async def _unlock(self, held: Held, ops: Sequence[Put | Delete], *, durable: bool = False) -> None:
        try:
            with self._figures.phase("transaction 3"):
                await self._store.apply(Transaction(held.checks, [*ops, *held.deletes()], durable=durable))
        except CheckFailed:
            raise Deposed from None
        finally:
            self._told.discard(held.intent.id)

    async def _tell_stuck(self, intent: Intent, step: p.AnyStep, error: Exception) -> None:
        """What could not be done or undone is told once, and tried again until it can."""
        name = next(piece.new.name for piece in intent.pieces if piece.container == step.container)
        told = event("container", "stuck", step.container, name, step=type(step).__name__, reason=str(error)[:500])
        if intent.id not in self._told:
            self._told.add(intent.id)
            with contextlib.suppress(PortlayerError):
                await self._store.apply(Transaction(ops=event_puts(intent.vch, told), durable=False))
        self.stuck.set()

    async def fence(self, held: Held) -> None:
        """A transaction of this intent that is still on its way to the store cannot happen any more. Raises Deposed
        where it has happened, or the intent is another's."""
        try:
            held.revision = await self._store.apply(Transaction(held.checks, held.puts(held.intent), durable=False))
        except CheckFailed:
            raise Deposed from None

    async def _happened(self, held: Held) -> bool:
        """Whether transaction 2, whose answer was lost, happened; where it has not, it will not."""
        if await self._landed(held):
            return True
        if held.revision:
            try:
                await self.fence(held)
            except Deposed:
                if not await self._landed(held):
                    raise
                return True
        return False

    async def _landed(self, held: Held) -> bool:
        """Whether transaction 2 has happened by now."""
        intent = held.intent
        receipt, lock = await self._store.get_many(
            [
                keys.entity(intent.vch, "receipts", intent.pieces[0].handle),
                keys.entity(intent.vch, "intents", intent.pieces[0].container),
            ]
        )
        if receipt is None:
            return False
        held.revision = lock.revision if lock is not None else 0
        return True

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
