"""Mutations in common: open a handle, add a change that fits the newest state, seal another."""

from __future__ import annotations

from portlayer.components.handles import Draft, Sealer
from portlayer.components.records import Records
from portlayer.model.caller import Caller
from portlayer.model.changes import AnyChange, apply, fold
from portlayer.model.errors import NotFound
from portlayer.model.execution import ContainerRecord, ContainerSpec, Observed
from portlayer.model.storage import HandleAnswer


class Preview:
    """An opened handle with the newest committed state and the spec that its changes lead to."""

    def __init__(self, draft: Draft, record: ContainerRecord | None, observed: Observed) -> None:
        self.draft = draft
        self.record = record
        self.observed = observed
        if record is None and draft.base:
            raise NotFound("This container has been removed.", kind="container", id=draft.container)
        self.spec: ContainerSpec = fold(record.spec if record and draft.base else None, draft.changes)


class Drafts:
    """Opens and seals container handles against one store."""

    def __init__(self, records: Records, sealer: Sealer) -> None:
        self.records = records
        self.sealer = sealer

    async def open(self, caller: Caller, handle: str) -> Preview:
        """Raises HandleInvalid, NotFound (removed since), and what `fold` raises."""
        draft = await self.unseal(caller, handle)
        found = await self.records.container(caller.vch, draft.container)
        return Preview(draft, *(found or (None, Observed())))

    async def unseal(self, caller: Caller, handle: str) -> Draft:
        """What *handle* carries. Raises HandleInvalid, and NotFound for the VCH."""
        return await self.sealer.open_draft((await self.records.check_vch(caller.vch)).id, handle)

    def seal(self, preview: Preview, *changes: AnyChange, ident: str | None = None) -> str:
        """A new handle: the old one's changes and *changes*, which have to fit."""
        spec = preview.spec
        for change in changes:
            spec = apply(spec, change)
        return self.sealer.seal(preview.draft.then(*changes, ident=ident))

    async def stage(self, caller: Caller, handle: str, change: AnyChange) -> HandleAnswer:
        """The answer of a mutation that adds one change."""
        return HandleAnswer(handle=self.seal(await self.open(caller, handle), change))
