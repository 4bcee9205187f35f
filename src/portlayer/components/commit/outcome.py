"""What a commit results in: observed states, records, receipts, events, and who is to blame."""

from __future__ import annotations

from collections.abc import Container

from portlayer.components import keys
from portlayer.components.commit.intents import Intent, Piece
from portlayer.components.records import Records, encode, event, event_puts, put
from portlayer.components.replays import REPLAY_SECONDS, Replay
from portlayer.interfaces.store import Delete, Put
from portlayer.interfaces.substrate import ExecutionDriver, StartFailure
from portlayer.model import plan as p
from portlayer.model.base import now
from portlayer.model.errors import (
    InvalidArgument,
    NotFound,
    PortlayerError,
    ResourceExhausted,
    SubstrateFailed,
    Unavailable,
    Unsupported,
)
from portlayer.model.events import Event
from portlayer.model.execution import Committed, CommittedMany, ContainerRecord, Observed, replace
from portlayer.model.views import committed_view

RECEIPT_SECONDS = 48 * 3600.0
UNKNOWN_EXIT_CODE = 255
"""The exit code of a process whose end nobody could record (a reboot, a killed monitor)."""


def stop_of(piece: Piece) -> p.Stop | None:
    return next((step for step in piece.plan.before if isinstance(step, p.Stop)), None)


async def observe(intent: Intent, failures: dict[str, StartFailure], driver: ExecutionDriver) -> dict[str, Observed]:
    """What holds of each container once `before` is done."""
    found: dict[str, Observed] = {}
    for piece in intent.pieces:
        stop = stop_of(piece)
        planned = piece.plan.observed
        if stop is not None:
            found[piece.container] = await ended(piece.observed, piece.container, driver)
        elif planned is None:
            found[piece.container] = piece.observed
        elif piece.container not in failures:
            found[piece.container] = planned
        elif planned.state == "running":
            found[piece.container] = failed_start(planned, failures[piece.container])
        else:
            found[piece.container] = replace(planned, prepared="")
    return found


async def ended(observed: Observed, container: str, driver: ExecutionDriver, *, asked: bool = True) -> Observed:
    """*observed* after the end of its incarnation, as the substrate's evidence says."""
    seen = await driver.observe(container, observed.incarnation)
    return replace(
        observed,
        state="stopped",
        exit_code=UNKNOWN_EXIT_CODE if seen.exit_code is None else seen.exit_code,
        finished_at=seen.finished_at or now(),
        oom_killed=seen.oom_killed,
        stop_requested=asked,
    )


def failed_start(observed: Observed, failure: StartFailure) -> Observed:
    return replace(
        observed,
        state="stopped",
        exit_code=failure.exit_code,
        start_error=failure.reason,
        started_at=None,
        finished_at=now(),
    )


def release_failure(error: Exception) -> StartFailure:
    """A process that could not be let go: recorded as the start's result."""
    return StartFailure(exit_code=UNKNOWN_EXIT_CODE, reason=str(error))


def results(intent: Intent, observed: dict[str, Observed]) -> dict[str, Committed]:
    return {
        piece.container: committed_view(piece.new, observed[piece.container], piece.revision) for piece in intent.pieces
    }


def record_ops(intent: Intent, observed: dict[str, Observed], answers: dict[str, Committed]) -> list[Put | Delete]:
    """The rows of transaction 2."""
    ops: list[Put | Delete] = []
    events: list[Event] = []
    for piece in intent.pieces:
        container = keys.entity(intent.vch, "containers", piece.container)
        seen = keys.entity(intent.vch, "observed", piece.container)
        if piece.removal:
            ops += [Delete(container), Delete(seen), tombstone(intent.vch, piece.container)]
        else:
            if piece.bump:
                record = ContainerRecord(
                    spec=piece.new, revision=piece.revision, touched=piece.touched, forgotten=piece.forgotten
                )
                ops.append(put(container, record))
            ops.append(put(seen, observed[piece.container]))
        receipt = keys.entity(intent.vch, "receipts", piece.handle)
        ops.append(put(receipt, answers[piece.container], RECEIPT_SECONDS))
        events += _events(piece, observed[piece.container])
    return ops + _replay(intent, answers) + event_puts(intent.vch, *events)


def tombstone(vch: str, container: str) -> Put:
    """What keeps a handle of its creation, which another has branched from, from making it once more."""
    return Put(keys.entity(vch, "removed", container), b"", RECEIPT_SECONDS)


def _replay(intent: Intent, answers: dict[str, Committed]) -> list[Put | Delete]:
    if intent.once is None:
        return []
    answer = encode(CommittedMany(containers=tuple(answers.values())))
    return [put(intent.once.key, Replay(request=intent.once.request, answer=answer), REPLAY_SECONDS)]


def late_failure_ops(intent: Intent, late: dict[str, Observed], answers: dict[str, Committed]) -> list[Put | Delete]:
    """A program that turned out not to be executable when it was let go."""
    ops: list[Put | Delete] = []
    events: list[Event] = []
    for piece in intent.pieces:
        observed = late.get(piece.container)
        if observed is not None:
            ops.append(put(keys.entity(intent.vch, "observed", piece.container), observed))
            receipt = keys.entity(intent.vch, "receipts", piece.handle)
            ops.append(put(receipt, answers[piece.container], RECEIPT_SECONDS))
            events.append(exit_event(piece.new.id, piece.new.name, observed))
    return ops + _replay(intent, answers) + event_puts(intent.vch, *events)


def exit_event(container: str, name: str, observed: Observed) -> Event:
    attributes = {"exitCode": str(observed.exit_code)}
    if observed.start_error:
        attributes["startError"] = observed.start_error
    return event("container", "exited", container, name, **attributes)


def _events(piece: Piece, observed: Observed) -> list[Event]:
    def tell(what: str, **attributes: str) -> Event:
        return event("container", what, piece.container, piece.new.name, **attributes)

    told: list[Event] = []
    if piece.removal:
        if stop_of(piece) is not None:
            told.append(exit_event(piece.container, piece.new.name, observed))
        return [*told, tell("removed")]
    if piece.old is None:
        told.append(tell("created", image=piece.new.image.name))
    else:
        if piece.old.name != piece.new.name:
            told.append(tell("renamed", oldName=piece.old.name))
        changed = [kind for kind in piece.kinds if kind not in ("create", "setState", "rename")]
        if changed:
            told.append(tell("updated", changes=",".join(changed)))
    before = piece.observed.state
    another = observed.incarnation != piece.observed.incarnation
    if observed.state == "running" and before != "paused" and another:
        told.append(tell("started", incarnation=observed.incarnation))
    elif observed.state == "running" and before == "paused":
        told.append(tell("resumed"))
    elif observed.state == "paused" and before != "paused":
        told.append(tell("paused"))
    elif observed.state == "stopped" and (before != "stopped" or another):
        told.append(exit_event(piece.container, piece.new.name, observed))
    return told


def committed_intent(intent: Intent, failures: Container[str]) -> Intent:
    """The intent as transaction 2 leaves it: what remains is `after`. failures: containers whose program cannot be
    executed, so that nothing waits for its release.
    """
    pieces = tuple(_without_release(piece) if piece.container in failures else piece for piece in intent.pieces)
    return replace(intent, phase="committed", pieces=pieces, frees=(), undo=())


def _without_release(piece: Piece) -> Piece:
    after = tuple(step for step in piece.plan.after if not isinstance(step, p.Release))
    return replace(piece, plan=replace(piece.plan, after=after))


def released(intent: Intent) -> list[tuple[str, str]]:
    """Container and incarnation of each process that the intent lets go."""
    return [
        (piece.container, step.incarnation)
        for piece in intent.pieces
        for step in piece.plan.after
        if isinstance(step, p.Release)
    ]


async def recorded(records: Records, intent: Intent) -> dict[str, Observed]:
    """The observed states that transaction 2 wrote."""
    found = {}
    for piece in intent.pieces:
        here = await records.container(intent.vch, piece.container)
        found[piece.container] = here[1] if here else piece.observed
    return found


async def past_no_return(intent: Intent, driver: ExecutionDriver) -> bool:
    """Whether a stop of this intent has done its work already: then only forward is left."""
    for piece in intent.pieces:
        stop = stop_of(piece)
        if stop is not None:
            seen = await driver.observe(piece.container, stop.incarnation)
            if seen.state in ("exited", "absent"):
                return True
    return False


def blame(error: Exception, step: p.AnyStep) -> PortlayerError:
    """The error for the caller: the failing step and its cause."""
    name = type(step).__name__
    if isinstance(error, InvalidArgument | NotFound | ResourceExhausted | Unavailable | Unsupported):
        return error
    if isinstance(error, SubstrateFailed):
        facts = {**error.facts, "step": name, "id": step.container}
        return SubstrateFailed(f"{name}: {error.detail}", **facts)
    return SubstrateFailed(f"{name}: {error!r}", step=name, id=step.container)


def no_way_back(error: BaseException, stop: p.Stop) -> Unavailable:
    """For the caller of a commit of which some processes have been stopped, but not this one."""
    return Unavailable(
        f"Stop: container {stop.container} could not be stopped yet, others of this commit were ({error}). It is tried "
        "again until all of it has happened; commit the same handles again for the result.",
        retry_after_seconds=5,
    )
