"""Small values of a VCH, for engines that want to remember something: revisioned, and so many at the most."""

from __future__ import annotations

import re

from portlayer.components import keys
from portlayer.components.locks import Locks
from portlayer.components.records import Records
from portlayer.interfaces.store import Check, CheckFailed, Delete, Put, Transaction
from portlayer.model import service as m
from portlayer.model.caller import Caller
from portlayer.model.errors import Conflict, InvalidArgument, NotFound, ResourceExhausted

MAX_VALUE_BYTES = 64 * 1024
MAX_KEYS = 1000
"""Of one VCH: it shares the store with others."""
_KEY = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,254}")
Demands = tuple[list[Check], list[Put]]


class Values:
    """The values of all VCHs. Their ETags are revisions of the store."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._store = records.store
        self._turns = Locks()

    async def get(self, caller: Caller, request: m.KvRef) -> m.KvEntry:
        """Raises NotFound."""
        record = await self._store.get(await self._key(caller, request.key))
        if record is None:
            raise NotFound(f"There is no value for key {request.key!r}.", kind="kv", id=request.key)
        return m.KvEntry(key=request.key, value=record.value, etag=str(record.revision))

    async def put(self, caller: Caller, request: m.PutKv) -> m.KvEntry:
        """Raises Conflict for another ETag, ResourceExhausted where there are as many as there may be."""
        key = await self._key(caller, request.key)
        if len(request.value) > MAX_VALUE_BYTES:
            raise InvalidArgument(f"A value has at most {MAX_VALUE_BYTES} bytes.")
        if await self._store.get(key) is not None:
            revision = await self._change(caller.vch, request.key, key, request.if_match, Put(key, request.value))
        else:
            async with self._turns.hold(caller.vch):
                revision = await self._change(caller.vch, request.key, key, request.if_match, Put(key, request.value))
        return m.KvEntry(key=request.key, value=request.value, etag=str(revision))

    async def delete(self, caller: Caller, request: m.DeleteKv) -> None:
        """Raises NotFound, Conflict for another ETag."""
        key = await self._key(caller, request.key)
        if await self._store.get(key) is None:
            raise NotFound(f"There is no value for key {request.key!r}.", kind="kv", id=request.key)
        await self._change(caller.vch, request.key, key, request.if_match, Delete(key))

    async def _key(self, caller: Caller, key: str) -> str:
        await self._records.check_vch(caller.vch)
        if _KEY.fullmatch(key) is None:
            raise InvalidArgument("A key has 1 to 255 letters, digits, '.', '_' or '-'.", pointer="/key")
        return keys.entity(caller.vch, "kv", key)

    async def _change(self, vch: str, name: str, key: str, if_match: str | None, op: Put | Delete) -> int:
        wanted = [] if if_match is None else [Check(key, _revision(name, if_match))]
        while True:
            tenant = await self._records.check_vch(vch)
            room, marks = await self._room(vch, key) if isinstance(op, Put) else ([], [])
            try:
                return await self._store.apply(Transaction((tenant.unchanged, *wanted, *room), (op, *marks)))
            except CheckFailed as failure:
                if wanted and key in failure.keys:
                    raise Conflict(f"{name} has another ETag; read it again.", id=name, collisions=["etag"]) from None
                self._records.tenants.forget(vch)

    async def _room(self, vch: str, key: str) -> Demands:
        """That *key* is still there; or, for a new one, that nobody else has taken of what is left meanwhile."""
        mark = keys.quota(vch, "kv")
        there, taken = await self._store.get_many([key, mark])
        if there is not None:
            return [Check(key, None)], []
        if await self._store.count(keys.entities(vch, "kv")) >= MAX_KEYS:
            raise ResourceExhausted(f"VCH {vch} has {MAX_KEYS} values; delete one first.", resource="kv")
        return [Check(mark, taken.revision if taken else 0)], [Put(mark, b"")]


def _revision(name: str, if_match: str) -> int | None:
    """Which one `If-Match` wants; None for any. Raises Conflict for what is no ETag of ours."""
    tag = if_match.removeprefix("W/").strip('"')
    if tag == "*":
        return None
    if not (tag.isdecimal() and len(tag) < 19):
        raise Conflict(f"{name} has another ETag.", id=name, collisions=["etag"])
    return int(tag)
