"""The first half of a commit: from handles to pieces, on the newest committed state."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from portlayer.components import keys
from portlayer.components.commit.intents import Piece
from portlayer.components.handles import Draft
from portlayer.components.records import decode_whole
from portlayer.interfaces.store import Check, Record, Store
from portlayer.interfaces.substrate import ExecutionDriver
from portlayer.model.base import now
from portlayer.model.changes import CreateContainer, RemoveContainer, collisions, fold, touch
from portlayer.model.errors import Conflict, NotFound
from portlayer.model.execution import ContainerRecord, Observed
from portlayer.model.names import new_id
from portlayer.model.plan import plan


class Found(msgspec.Struct, frozen=True):
    """The present state of one container; record None: there is none. unchanged: the demands that it still is so."""

    container: str
    record: Record | None
    observed: Observed
    locked: bool
    unchanged: tuple[Check, ...]

    @property
    def committed(self) -> ContainerRecord | None:
        return decode_whole(ContainerRecord, self.record.value) if self.record else None


async def look(store: Store, vch: str, containers: Sequence[str]) -> list[Found]:
    """The present state of *containers*, of one instant."""
    wanted = [keys.entity(vch, kind, ident) for ident in containers for kind in ("containers", "observed", "intents")]
    rows = await store.get_many(wanted)
    present = zip(containers, rows[::3], rows[1::3], rows[2::3], strict=True)
    return [
        Found(
            container=ident,
            record=record,
            observed=decode_whole(Observed, seen.value) if seen else Observed(),
            locked=intent is not None,
            unchanged=tuple(
                Check(key, row.revision if row else 0)
                for key, row in zip(wanted[3 * number : 3 * number + 3], (record, seen, intent), strict=True)
            ),
        )
        for number, (ident, record, seen, intent) in enumerate(present)
    ]


async def gather(found: Found, draft: Draft, driver: ExecutionDriver, *, strict: bool, bump: bool) -> Piece:
    """*draft* replayed on what was found.

    Raises:
        NotFound: the container has been removed. Conflict: others committed what it touches, or, when strict, anything.
        What `fold` and `plan` raise.
    """
    record = found.committed
    creates = any(isinstance(change, CreateContainer) for change in draft.changes)
    if record is None and not creates:
        raise NotFound("This container has been removed.", kind="container", id=draft.container)
    if record is not None:
        _check_collisions(record, draft, strict=strict)
    old = record.spec if record else None
    removal = any(isinstance(change, RemoveContainer) for change in draft.changes)
    new = fold(old, draft.changes)
    observed = found.observed
    prepared = observed.prepared
    held = bool(prepared) and (await driver.observe(draft.container, prepared)).state == "prepared"
    revision = (record.revision if record else 0) + 1
    touched, forgotten = {"create": 1}, 0
    if record is not None:
        touched, forgotten = touch(record.touched, record.forgotten, draft.changes, revision)
    return Piece(
        handle=draft.id,
        container=draft.container,
        old=old,
        new=new,
        observed=observed,
        plan=plan(old, new, observed, draft.changes, new_id(), now(), held=held),
        kinds=tuple(dict.fromkeys(str(change.__struct_config__.tag) for change in draft.changes)),
        revision=revision,
        touched=touched,
        forgotten=forgotten,
        removal=removal,
        bump=bump,
    )


def _check_collisions(record: ContainerRecord, draft: Draft, *, strict: bool) -> None:
    if draft.base > record.revision:
        raise Conflict("The container is older than this handle; the store has been set back.", id=draft.container)
    names = collisions(record.touched, draft.base, draft.changes, record.forgotten)
    if not names and strict and draft.base != record.revision:
        names = tuple(sorted(key for key, revision in record.touched.items() if revision > draft.base)) or ("revision",)
    if names:
        raise Conflict(
            f"Others have committed {', '.join(names)} of {record.spec.name} since this handle was taken; "
            "take a new handle and compose again.",
            id=draft.container,
            collisions=list(names),
        )
