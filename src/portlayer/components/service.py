"""The port layer itself: what it is, tenants, events, small values for personas."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from portlayer import __version__
from portlayer.components import keys
from portlayer.components.events import History
from portlayer.components.records import Records, VchRecord, cut, decode, put
from portlayer.interfaces.store import Check, CheckFailed, Delete, Put, Transaction
from portlayer.model import service as m
from portlayer.model.caller import Caller
from portlayer.model.errors import Conflict, InvalidArgument, NotFound, PortlayerError
from portlayer.model.events import NumberedEvent
from portlayer.model.storage import Nothing

COMPONENTS = ("storage", "execution", "network", "interaction")
MAX_VALUE_BYTES = 64 * 1024
_KEY = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}")


class LocalService:
    """Implements interfaces.service.Service.

    substrates: features by name. alive: asks the substrate. stuck: counts the commits that are tried again. figures:
    what the parts of this process have to say, as lines of metrics.
    """

    def __init__(
        self,
        records: Records,
        instance: str,
        substrates: Mapping[str, Mapping[str, str]],
        alive: Callable[[], Awaitable[object]],
        stuck: Callable[[], Awaitable[int]],
        figures: Callable[[], Sequence[str]],
    ) -> None:
        self._records = records
        self._store = records.store
        self._instance = instance
        self._substrates = substrates
        self._alive = alive
        self._stuck = stuck
        self._figures = figures

    async def info(self, caller: Caller, request: Nothing) -> m.Info:  # noqa: ARG002
        return m.Info(
            version=__version__,
            api_version="v1",
            instance=self._instance,
            components=tuple(m.ComponentInfo(name=name, where="local") for name in COMPONENTS),
            substrates=tuple(
                m.SubstrateInfo(name=name, features=dict(features)) for name, features in self._substrates.items()
            ),
            store=self._store.name,
        )

    async def ready(self, caller: Caller, request: Nothing) -> m.Readiness:  # noqa: ARG002
        checks = {}
        for name, ask in (("store", self._store.revision), ("substrate", self._alive)):
            try:
                await ask()
                checks[name] = "ok"
            except PortlayerError as error:
                checks[name] = error.detail
        ready = all(said == "ok" for said in checks.values())
        if checks["store"] == "ok":
            stuck = await self._stuck()
            checks["commits"] = f"{stuck} can neither be finished nor undone yet; see the log" if stuck else "ok"
        return m.Readiness(ready=ready, checks=checks)

    async def metrics(self, caller: Caller, request: Nothing) -> str:  # noqa: ARG002
        lines = [
            "# HELP portlayer_info The version that runs.",
            "# TYPE portlayer_info gauge",
            f'portlayer_info{{version="{__version__}",store="{self._store.name}"}} 1',
            "# HELP portlayer_store_revision Transactions that the store has seen.",
            "# TYPE portlayer_store_revision counter",
            f"portlayer_store_revision {await self._store.revision()}",
        ]
        lines += [
            "# HELP portlayer_commits_stuck Commits that can neither be finished nor undone yet.",
            "# TYPE portlayer_commits_stuck gauge",
            f"portlayer_commits_stuck {await self._stuck()}",
        ]
        lines += self._figures()
        usage = {vch.name: vch.usage for vch in await self._vchs()}
        for kind in ("containers", "networks", "volumes", "images"):
            lines += [f"# HELP portlayer_{kind} How many {kind} there are.", f"# TYPE portlayer_{kind} gauge"]
            lines += [f'portlayer_{kind}{{vch="{name}"}} {getattr(used, kind)}' for name, used in usage.items()]
        return "\n".join(lines) + "\n"

    async def list_vchs(self, caller: Caller, request: m.ListVchs) -> m.Vchs:  # noqa: ARG002
        page, after = cut(await self._vchs(), lambda vch: vch.name, request.limit, request.after)
        return m.Vchs(vchs=page, next=after)

    async def _vchs(self) -> list[m.Vch]:
        rows = await self._store.range(keys.VCHS)
        return [await self._vch(decode(VchRecord, row.value)) for row in rows]

    async def get_vch(self, caller: Caller, request: m.VchRef) -> m.Vch:  # noqa: ARG002
        record = None if "/" in request.ref else await self._records.read(VchRecord, keys.vch(request.ref))
        if record is None:
            raise NotFound(f"There is no VCH called {request.ref!r}.", kind="vch", id=request.ref)
        return await self._vch(record)

    async def _vch(self, record: VchRecord) -> m.Vch:
        async def count(kind: str) -> int:
            return await self._store.count(keys.entities(record.name, kind))

        usage = m.Usage(
            containers=await count("containers"),
            networks=await count("networks"),
            volumes=await count("volumes"),
            images=await count("images"),
        )
        return m.Vch(name=record.name, created_at=record.created_at, usage=usage)

    async def events(self, caller: Caller, request: m.Subscribe) -> AsyncIterator[NumberedEvent]:
        await self._records.check_vch(caller.vch)
        history = History(self._store, caller.vch)
        return history.follow(await history.start(request.since))

    async def get_kv(self, caller: Caller, request: m.KvRef) -> m.KvEntry:
        record = await self._store.get(await self._kv_key(caller, request.key))
        if record is None:
            raise NotFound(f"There is no value for key {request.key!r}.", kind="kv", id=request.key)
        return m.KvEntry(key=request.key, value=record.value, etag=str(record.revision))

    async def put_kv(self, caller: Caller, request: m.PutKv) -> m.KvEntry:
        key = await self._kv_key(caller, request.key)
        if len(request.value) > MAX_VALUE_BYTES:
            raise InvalidArgument(f"A value has at most {MAX_VALUE_BYTES} bytes.")
        revision = await self._change(request.key, key, request.if_match, Put(key, request.value))
        return m.KvEntry(key=request.key, value=request.value, etag=str(revision))

    async def delete_kv(self, caller: Caller, request: m.DeleteKv) -> None:
        key = await self._kv_key(caller, request.key)
        if await self._store.get(key) is None:
            raise NotFound(f"There is no value for key {request.key!r}.", kind="kv", id=request.key)
        await self._change(request.key, key, request.if_match, Delete(key))

    async def _kv_key(self, caller: Caller, key: str) -> str:
        await self._records.check_vch(caller.vch)
        if _KEY.fullmatch(key) is None:
            raise InvalidArgument("A key has 1 to 255 letters, digits, '.', '_' or '-'.", pointer="/key")
        return keys.entity(caller.vch, "kv", key)

    async def _change(self, name: str, key: str, if_match: str | None, op: Put | Delete) -> int:
        checks: tuple[Check, ...] = ()
        if if_match is not None:
            tag = if_match.removeprefix("W/").strip('"')
            if tag != "*" and not (tag.isdecimal() and len(tag) < 19):
                raise Conflict(f"{name} has another ETag.", id=name, collisions=["etag"])
            checks = (Check(key, None if tag == "*" else int(tag)),)
        try:
            return await self._store.apply(Transaction(checks, (op,)))
        except CheckFailed:
            raise Conflict(f"{name} has another ETag; read it again.", id=name, collisions=["etag"]) from None


async def ensure_vch(records: Records, name: str, created_at: str) -> None:
    """The tenant *name* exists."""
    ops = (put(keys.vch(name), VchRecord(name=name, created_at=created_at)),)
    try:
        await records.store.apply(Transaction((Check(keys.vch(name), 0),), ops))
    except CheckFailed:
        return
