"""Grants in the store: what proves who somebody is, as a digest, bound to the VCH that was there when it was made.

Each use reads the store, so a grant that any process has deleted is good nowhere from then on. One with an end is a
lease, and has that end in its record too: it is over when either is, so that neither a clock that is set back nor a
host that slept makes it last longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

from portlayer.components import keys
from portlayer.components.records import Records, decode_whole, put
from portlayer.components.replays import Replays
from portlayer.components.tenants import Tenant
from portlayer.interfaces.store import Check, CheckFailed, Compacted, Delete, Put, Record, Transaction
from portlayer.model.access import Identity, without_secrets
from portlayer.model.base import Value, rfc3339
from portlayer.model.caller import Caller
from portlayer.model.errors import InvalidArgument, NotFound, Unavailable
from portlayer.model.execution import replace
from portlayer.model.grants import Grant, ListGrants, Wanted
from portlayer.model.names import is_id, new_id

A = TypeVar("A", bound=Value)
W = TypeVar("W", bound=Wanted)
RETRY_SECONDS = 1.0
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
_NANO = 1_000_000_000
log = logging.getLogger(__name__)


class GrantRecord(Value):
    """digest: SHA-256 of what proves it, in hex. vch_id: a later VCH of the same name is another. until: in
    nanoseconds since the epoch."""

    grant: Grant
    digest: str
    vch_id: str | None = None
    until: int | None = None


class Grants:
    """Those of one *kind*, `token` or `certificate`, that last for *most_seconds* at the most."""

    def __init__(self, records: Records, replays: Replays, kind: str, most_seconds: int) -> None:
        self._records = records
        self._replays = replays
        self._store = records.store
        self._kind = kind
        self._prefix = keys.grants(kind)
        self._most_seconds = most_seconds

    async def add(self, caller: Caller, wanted: W, told: type[A], prove: Callable[[Grant], tuple[bytes, A]]) -> A:
        """A new one; or, under an Idempotency-Key that *caller* has used before, that one.

        prove: makes what will prove it, and what is told of it. That is kept with the key, so it is no secret.
        Raises InvalidArgument; NotFound for a VCH that is not there.
        """
        self._check(wanted)

        async def create(_caller: Caller, _wanted: W) -> tuple[A, list[Check], list[Put]]:
            grant, until = _granted(wanted)
            proof, answer = prove(grant)
            self._records.tenants.forget(wanted.vch or "")
            tenant = None if wanted.vch is None else await self._records.check_vch(wanted.vch)
            record = GrantRecord(grant=grant, digest=digest(proof), vch_id=tenant.id if tenant else None, until=until)
            checks = [Check(self._prefix + grant.id, 0), *([tenant.unchanged] if tenant else [])]
            return answer, checks, [put(self._prefix + grant.id, record, wanted.ttl_seconds)]

        return await self._replays.once(_apart(caller), self._kind, wanted, told, create)

    async def page(self, request: ListGrants) -> tuple[tuple[Grant, ...], str | None]:
        """Those that are good, by id, and the cursor of the next page."""
        rows = await self._store.range(self._prefix, after=self._prefix + request.after if request.after else "")
        found, following = self._records.page_of(GrantRecord, rows, lambda record: not _is_over(record), request.limit)
        return tuple(record.grant for record in found), following

    async def delete(self, ident: str) -> None:
        """From now on it is good for nothing. Raises NotFound."""
        try:
            if not is_id(ident):
                named = without_secrets(ident)[:140]
                raise NotFound(f"There is no {self._kind} {named!r}; name one by its id.", kind=self._kind, id=named)
            key = self._prefix + ident
            await self._store.apply(Transaction((Check(key, None),), (Delete(key),)))
        except CheckFailed:
            raise NotFound(f"There is no {self._kind} {ident!r}.", kind=self._kind, id=ident) from None

    async def holder(self, ident: str, proof: bytes) -> Identity | None:
        """Who holds *ident*, which *proof* has to prove, as of now; None: nobody."""
        row = await self._store.get(self._prefix + ident)
        if row is None:
            return None
        record = decode_whole(GrantRecord, row.value)
        if not hmac.compare_digest(record.digest, digest(proof)) or not await self._is_good(row):
            return None
        grant = record.grant
        return Identity(subject=grant.subject, role=grant.role, vch=grant.vch, how=f"{self._kind}:{grant.id}")

    async def ended(self, ident: str) -> None:
        """Returns once *ident* is good no more."""
        key = self._prefix + ident
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(key)) as changes:
                    row = await self._store.get(key)
                    if row is None or not await self._is_good(row):
                        return
                    until = decode_whole(GrantRecord, row.value).until
                    left = None if until is None else max(0.0, (until - time.time_ns()) / _NANO)
                    async with asyncio.timeout(left):
                        if await anext(changes, None) is None:
                            return  # the store is closed
            except TimeoutError:
                return
            except (Compacted, Unavailable):
                log.warning("a %s could not be followed; looking again", self._kind)
                await asyncio.sleep(RETRY_SECONDS)

    async def forget_vch(self, tenant: Tenant) -> None:
        """Delete those of a VCH that goes."""
        rows = await self._store.range(self._prefix)
        gone = [Delete(row.key) for row in rows if decode_whole(GrantRecord, row.value).vch_id == tenant.id]
        for first in range(0, len(gone), 100):
            await self._store.apply(Transaction(ops=gone[first : first + 100]))

    async def _is_good(self, row: Record) -> bool:
        """Whether its time is not over, and its VCH is still there."""
        record = decode_whole(GrantRecord, row.value)
        if _is_over(record):
            return False
        if record.grant.vch is None:
            return True
        try:
            return (await self._records.check_vch(record.grant.vch)).id == record.vch_id
        except NotFound:
            return False

    def _check(self, wanted: Wanted) -> None:
        if (wanted.role == "operator") != (wanted.vch is None):
            raise InvalidArgument("A viewer or user has a vch, and an operator, who has all, has none.", pointer="/vch")
        if _SUBJECT.fullmatch(wanted.subject) is None:
            raise InvalidArgument(
                "A subject has 1 to 128 letters, digits or ._:@/+-, and starts with a letter or digit.",
                pointer="/subject",
            )
        if wanted.ttl_seconds is not None and not 1 <= wanted.ttl_seconds <= self._most_seconds:
            raise InvalidArgument(f"ttlSeconds must be between 1 and {self._most_seconds}.", pointer="/ttlSeconds")


def _granted(wanted: Wanted) -> tuple[Grant, int | None]:
    """The grant, and its end in nanoseconds."""
    moment = time.time_ns()
    until = None if wanted.ttl_seconds is None else moment + wanted.ttl_seconds * _NANO
    grant = Grant(
        id=new_id(),
        subject=wanted.subject,
        role=wanted.role,
        vch=wanted.vch,
        created_at=rfc3339(moment),
        expires_at=None if until is None else rfc3339(until),
    )
    return grant, until


def _is_over(record: GrantRecord) -> bool:
    return record.until is not None and record.until <= time.time_ns()


def _apart(caller: Caller) -> Caller:
    """*caller*, whose Idempotency-Key is another one's from whoever else has the same: nobody gets what was told to
    others."""
    key = caller.idempotency_key
    return caller if key is None else replace(caller, idempotency_key=f"{caller.subject}\0{caller.role}\0{key}")


def digest(proof: bytes) -> str:
    """What is kept of *proof*."""
    return hashlib.sha256(proof).hexdigest()
