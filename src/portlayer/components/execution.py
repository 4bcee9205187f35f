"""Execution: containers, and the commit of what handles carry."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from portlayer.components import keys
from portlayer.components.addresses import Pool
from portlayer.components.commit.engine import Engine
from portlayer.components.commit.intents import Once
from portlayer.components.creation import new_container
from portlayer.components.drafts import Drafts
from portlayer.components.handles import Draft, Stamp
from portlayer.components.hosts import HostBook
from portlayer.components.observer import Observer, internal_draft
from portlayer.components.placing import Placing
from portlayer.components.reconciler import Reconciler
from portlayer.components.records import decode, label_filter, own_volumes, put
from portlayer.components.replays import Replay, digest_of, replay_key
from portlayer.components.tenants import Tenant
from portlayer.components.waiting import Wait, changes_of
from portlayer.components.written import Meter
from portlayer.interfaces.store import CheckFailed, Transaction
from portlayer.model import changes as c
from portlayer.model import execution as m
from portlayer.model import limits, names
from portlayer.model.access import allows, masked
from portlayer.model.caller import Caller
from portlayer.model.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    InvalidState,
    PortlayerError,
    Unavailable,
    Unsupported,
)
from portlayer.model.interaction import MAIN_TASK
from portlayer.model.plan import expected
from portlayer.model.signals import parse_signal
from portlayer.model.storage import HandleAnswer, Image
from portlayer.model.views import container_view, shown_state

log = logging.getLogger(__name__)
MAX_HANDLES = 200
COMMIT = "commit"
DELETE_ATTEMPTS = 10
PART_SECONDS = 5.0


class LocalExecution:
    """Implements interfaces.execution.Execution on one host's substrate; what needs the store alone, for all hosts."""

    def __init__(
        self,
        drafts: Drafts,
        pool: Pool,
        engine: Engine,
        observer: Observer,
        reconciler: Reconciler,
        book: HostBook,
        placing: Placing,
        meter: Meter,
    ) -> None:
        self._drafts = drafts
        self._records = drafts.records
        self._pool = pool
        self._engine = engine
        self._observer = observer
        self._reconciler = reconciler
        self._book = book
        self._placing = placing
        self._meter = meter

    async def start(self, *, alone: bool) -> None:
        """alone: something outside the store proves that no other process acts on this host."""
        await self._engine.layers.start(alone=alone)
        await self._observer.start()
        await self._reconciler.start(alone=alone)
        self._meter.start()

    async def forget_vch(self, tenant: Tenant) -> None:
        """Remove all containers of a VCH that is being deleted; those whose first commit is under way come to it, those
        of other hosts are removed there. Raises Unavailable while there still are any.
        """
        vch = tenant.record.name
        containers, intents = keys.entities(vch, "containers"), keys.entities(vch, "intents")
        for row in await self._records.left(tenant, "containers"):
            record = decode(m.ContainerRecord, row.value)
            change = c.RemoveContainer(force=True, volumes={})
            if record.spec.host == self._engine.host:
                try:
                    await self._engine.commit(vch, [internal_draft(vch, record, change)], patient=True)
                except PortlayerError as error:  # the others go all the same
                    log.warning("container %s of a VCH that goes is still there: %s", record.spec.id, error)
        gone = await self._records.until_gone(intents, PART_SECONDS)
        if not gone or await self._records.store.count(containers):
            raise Unavailable(f"VCH {vch} still has containers.", retry_after_seconds=1)

    async def close(self) -> None:
        await self._meter.close()
        await self._reconciler.close()
        await self._engine.drain()
        await self._engine.layers.close()
        await self._observer.close()

    async def create(self, caller: Caller, request: m.Create) -> m.Created:
        image = await self._records.find(Image, caller.vch, "images", request.image, "/image")
        tenant = await self._records.check_vch(caller.vch)
        await self._engine.membership.ensure()  # or its own host is taken to be away
        host = await self._placing.place(request)
        ident = names.new_id()
        if caller.idempotency_key is not None:  # two creations under one key are two handles to one container
            ident = names.derived_id(tenant.id, caller.idempotency_key, digest_of("create", request))
        spec = new_container(ident, caller.vch, request, image, host.substrate, host.name)
        change = c.CreateContainer(spec=spec)
        draft = Draft(
            id=names.new_id(), issued=Stamp.now(), vch=tenant.id, container=spec.id, base=0, changes=(change,)
        )
        return m.Created(handle=await self._drafts.sealer.mint(draft), id=spec.id)

    async def set_state(self, caller: Caller, request: m.SetState) -> HandleAnswer:
        limits.check_timeout(request.timeout_seconds)
        if request.timeout_seconds is not None and request.state != "stopped":
            raise InvalidArgument("Only a stop waits before it kills.", pointer="/timeoutSeconds")
        change = c.ChangeState(state=request.state, timeout_seconds=request.timeout_seconds)
        return await self._drafts.stage(caller, request.handle, change)

    async def set_labels(self, caller: Caller, request: m.SetLabels) -> HandleAnswer:
        names.check_labels(dict.fromkeys(request.labels, ""))
        return await self._drafts.stage(caller, request.handle, c.MergeLabels(labels=request.labels))

    async def set_resources(self, caller: Caller, request: m.SetResources) -> HandleAnswer:
        preview = await self._drafts.open(caller, request.handle)
        change = c.ChangeResources(resources=limits.check_resources(request.resources))
        self._placing.check(preview.spec.host, request.resources)
        return HandleAnswer(handle=self._drafts.seal(preview, change))

    async def set_restart_policy(self, caller: Caller, request: m.SetRestartPolicy) -> HandleAnswer:
        preview = await self._drafts.open(caller, request.handle)
        policy = limits.check_restart_policy(request.restart_policy, remove_on_exit=preview.spec.remove_on_exit)
        return HandleAnswer(handle=self._drafts.seal(preview, c.ChangeRestartPolicy(restart_policy=policy)))

    async def rename(self, caller: Caller, request: m.Rename) -> HandleAnswer:
        change = c.RenameContainer(name=names.check_name(request.name))
        return await self._drafts.stage(caller, request.handle, change)

    async def inspect(self, caller: Caller, request: m.Inspect) -> m.Inspected:
        preview = await self._drafts.open(caller, request.handle)
        base = preview.record.revision if preview.record else 0
        proposed = m.ContainerRecord(spec=preview.spec, revision=base + 1, touched={})
        return m.Inspected(
            handle=request.handle,
            base=preview.draft.base,
            current=self._view(preview.record, preview.observed) if preview.record else None,
            proposed=self._view(proposed, expected(preview.observed, preview.draft.changes)),
            changes=tuple(msgspec.to_builtins(change) for change in preview.draft.changes),
        )

    async def commit(self, caller: Caller, request: m.Commit) -> m.Committed | m.CommittedMany:
        if (request.handle is None) == (not request.handles):
            raise InvalidArgument("Give either handle or handles.", pointer="/handle")
        if len(request.handles) > MAX_HANDLES:
            raise InvalidArgument(f"At most {MAX_HANDLES} handles in one commit.", pointer="/handles")
        handles = request.handles if request.handle is None else (request.handle,)
        drafts = [await self._drafts.unseal(caller, handle) for handle in handles]
        if len({draft.container for draft in drafts}) < len(drafts):
            raise InvalidArgument("Two of the handles are of one container.", pointer="/handles")
        once = None
        if (key := replay_key(caller, COMMIT)) is not None:
            once = Once(key=key, request=request.fingerprint or digest_of(COMMIT, request))
        elif request.fingerprint is not None:
            raise InvalidArgument("A fingerprint goes with an Idempotency-Key.", pointer="/fingerprint")
        done = await self._engine.commit(caller.vch, drafts, strict=request.strict, once=once)
        return done[0] if request.handle is not None else m.CommittedMany(containers=tuple(done))

    async def recall(self, caller: Caller, request: m.Recall) -> m.Recalled:
        await self._records.check_vch(caller.vch)
        key = replay_key(caller, COMMIT)
        if key is None:
            raise InvalidArgument("Give the Idempotency-Key of the commit.")
        replay = await self._records.read(Replay, key)
        if replay is None:
            return m.Recalled(committed=None)
        first = replay.answer_to(request.fingerprint or replay.request, m.CommittedMany)
        return m.Recalled(committed=first.containers)

    async def discard(self, caller: Caller, request: m.Discard) -> None:
        await self._pool.give_back(caller.vch, await self._drafts.unseal(caller, request.handle))

    async def list_containers(self, caller: Caller, request: m.ListContainers) -> m.Containers:
        labels = label_filter(request.label)
        await self._records.check_vch(caller.vch)
        containers, seen = await self._records.store.ranges(
            [keys.entities(caller.vch, kind) for kind in ("containers", "observed")]
        )
        observed = {keys.last(row.key): decode(m.Observed, row.value) for row in seen}
        rows = (row for row in containers if request.after is None or keys.last(row.key) > request.after)

        def keep(record: m.ContainerRecord) -> bool:
            spec = record.spec
            state = self._state(spec, observed.get(spec.id, m.Observed()))
            return request.state in (None, state) and request.name in (None, spec.name) and labels(spec.labels)

        found, after = self._records.page_of(m.ContainerRecord, rows, keep, request.limit)
        views = tuple(self._seen(caller, record, observed.get(record.spec.id, m.Observed())) for record in found)
        return m.Containers(containers=views, next=after)

    async def get_container(self, caller: Caller, request: m.ContainerRef) -> m.Container:
        return self._seen(caller, *await self._records.find_container(caller.vch, request.ref))

    def _is_away(self, spec: m.ContainerSpec) -> bool:
        """Whether nobody looks after the container; its own host's processes do, by being asked."""
        return spec.host != self._engine.host and self._book.state(spec.host) != "up"

    def _state(self, spec: m.ContainerSpec, observed: m.Observed) -> str:
        return shown_state(observed, away=self._is_away(spec))

    def _view(self, record: m.ContainerRecord, observed: m.Observed) -> m.Container:
        return container_view(record, observed, away=self._is_away(record.spec))

    def _seen(self, caller: Caller, record: m.ContainerRecord, observed: m.Observed) -> m.Container:
        """The view of a container for *caller*: values of the environment are for those who may change it."""
        view = self._view(record, observed)
        if allows(caller.role, "user"):
            return view
        return m.replace(view, process=m.replace(view.process, env=masked(view.process.env)))

    async def handle(self, caller: Caller, request: m.ContainerRef) -> m.ContainerHandle:
        record, _ = await self._records.find_container(caller.vch, request.ref)
        tenant, ident = await self._records.check_vch(caller.vch), record.spec.id
        draft = Draft(id=names.new_id(), issued=Stamp.now(), vch=tenant.id, container=ident, base=record.revision)
        return m.ContainerHandle(handle=await self._drafts.sealer.mint(draft), id=ident, revision=record.revision)

    async def delete_container(self, caller: Caller, request: m.DeleteContainer) -> None:
        """A commit of one change; others who commit at the same time only make it look again."""
        for attempt in range(DELETE_ATTEMPTS):
            record, _ = await self._records.find_container(caller.vch, request.ref)
            volumes = await own_volumes(self._records, caller.vch, record.spec) if request.volumes else {}
            change = c.RemoveContainer(force=request.force, volumes=volumes)
            try:
                await self._engine.commit(caller.vch, [internal_draft(caller.vch, record, change)])
            except Conflict:
                if attempt == DELETE_ATTEMPTS - 1:
                    raise
            else:
                return

    async def signal(self, caller: Caller, request: m.Signal) -> None:
        number = parse_signal(request.signal)
        if request.task_id not in (None, MAIN_TASK):
            raise Unsupported("Only the main task can be signalled.", option="taskId")
        record, observed = await self._records.find_container(caller.vch, request.ref)
        spec = record.spec
        if observed.state not in ("running", "paused"):
            raise InvalidState(
                f"{spec.name} is {observed.state}; only a running container takes signals.",
                kind="container",
                id=spec.id,
                state=observed.state,
            )
        if number in (9, parse_signal(spec.stop_signal)) and spec.restart_policy.name != "no":
            await self._note_stop(caller.vch, spec.id, observed.incarnation)
        await self._engine.substrate.execution.signal(spec.id, observed.incarnation, number)

    async def _note_stop(self, vch: str, container: str, incarnation: str) -> None:
        """An end that somebody asked for is not restarted."""
        while True:
            async with self._engine.alone(vch, container) as found:
                if found.record is None or found.observed.incarnation != incarnation:
                    return
                noted = m.replace(found.observed, stop_requested=True)
                ops = (put(keys.entity(vch, "observed", container), noted),)
                try:
                    await self._records.store.apply(Transaction(found.unchanged, ops, durable=False))
                except CheckFailed:
                    continue
                return

    async def wait(self, caller: Caller, request: m.Wait) -> m.Waited:
        limits.check_timeout(request.timeout_seconds, "?timeoutSeconds")
        if request.condition == "healthy":
            raise Unsupported("Health checks are not offered; wait for running or exited.", option="condition")
        store = self._records.store
        revision = await store.revision()
        record, seen = await self._records.find_container(caller.vch, request.ref)
        spec = record.spec
        wait = Wait(store, caller.vch, spec.id, seen, revision)
        try:
            async with (
                asyncio.timeout(request.timeout_seconds),
                changes_of(store, self._book, caller.vch, spec, self._engine.host) as change,
            ):
                if request.condition == "exited":
                    return await wait.until_end(change)
                return await wait.until(lambda observed: self._state(spec, observed) == request.condition, change)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{spec.name} is not {request.condition} after {request.timeout_seconds:g} seconds."
            ) from None
