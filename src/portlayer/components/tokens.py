"""Bearer tokens in the store: only a digest of each secret, bound to the VCH that was there when it was made.

A secret is `plt_<id>_<256 random bits>`. Each use reads the store, so a token that any process has deleted is good
nowhere from then on. One with an end is a lease, and has that end in its record too: it is over when either is, so that
neither a clock that is set back nor a host that slept makes it last longer.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import re
import secrets
import time

from portlayer.components import keys
from portlayer.components.records import Records, decode, put
from portlayer.components.tenants import Tenant
from portlayer.interfaces.store import Check, CheckFailed, Compacted, Delete, Record, Transaction
from portlayer.model import tokens as m
from portlayer.model.access import Identity
from portlayer.model.base import Value, rfc3339
from portlayer.model.errors import InvalidArgument, NotFound, Unavailable
from portlayer.model.names import is_id, new_id

MOST_SECONDS = 10 * 366 * 86400
RETRY_SECONDS = 1.0
_SECRET = re.compile(r"plt_([0-9a-f]{32})_[A-Za-z0-9_-]{43}", re.ASCII)
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")
_NANO = 1_000_000_000
log = logging.getLogger(__name__)


class TokenRecord(Value):
    """digest: SHA-256 of the secret, in hex. vch_id: a later VCH of the same name is another. until: in nanoseconds
    since the epoch."""

    token: m.Token
    digest: str
    vch_id: str | None = None
    until: int | None = None


class TokenBook:
    """Makes, lists, deletes and recognises tokens. Implements interfaces.authority.Authority."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._store = records.store

    async def create(self, request: m.CreateToken) -> m.NewToken:
        """Raises InvalidArgument; NotFound for a VCH that is not there."""
        _check(request)
        while True:
            tenant = None if request.vch is None else await self._records.check_vch(request.vch)
            made, record = _made(request, tenant)
            key = keys.token(made.token.id)
            checks = [Check(key, 0), *([tenant.unchanged] if tenant else [])]
            try:
                await self._store.apply(Transaction(checks, (put(key, record, request.ttl_seconds),)))
            except CheckFailed:
                self._records.tenants.forget(request.vch or "")
            else:
                return made

    async def page(self, request: m.ListTokens) -> m.Tokens:
        """Tokens by id."""
        after = keys.token(request.after) if request.after else ""
        rows = await self._store.range(keys.TOKENS, after=after)
        found, following = self._records.page_of(TokenRecord, rows, lambda record: not _is_over(record), request.limit)
        return m.Tokens(tokens=tuple(record.token for record in found), next=following)

    async def delete(self, ident: str) -> None:
        """From now on it is good for nothing. Raises NotFound."""
        key = keys.token(ident)
        try:
            if not is_id(ident):
                raise NotFound(f"There is no token {ident[:140]!r}.", kind="token", id=ident)
            await self._store.apply(Transaction((Check(key, None),), (Delete(key),)))
        except CheckFailed:
            raise NotFound(f"There is no token {ident!r}.", kind="token", id=ident) from None

    async def identify(self, secret: str) -> Identity | None:
        """Whose token *secret* is, as of now; None: no good one's."""
        match = _SECRET.fullmatch(secret)
        row = await self._store.get(keys.token(match[1])) if match else None
        if row is None:
            return None
        record = decode(TokenRecord, row.value)
        if not hmac.compare_digest(record.digest, _digest(secret)) or not await self._is_good(row):
            return None
        token = record.token
        return Identity(subject=token.subject, role=token.role, vch=token.vch, how=f"token:{token.id}")

    async def ended(self, identity: Identity) -> None:
        """Returns once the token that *identity* came from is good no more."""
        key = keys.token(identity.how.removeprefix("token:"))
        while True:
            try:
                async with contextlib.aclosing(self._store.watch(key)) as changes:
                    row = await self._store.get(key)
                    if row is None or not await self._is_good(row):
                        return
                    until = decode(TokenRecord, row.value).until
                    left = None if until is None else max(0.0, (until - time.time_ns()) / _NANO)
                    async with asyncio.timeout(left):
                        if await anext(changes, None) is None:
                            return  # the store is closed
            except TimeoutError:
                return
            except (Compacted, Unavailable):
                log.warning("a token could not be followed; looking again")
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_good(self, row: Record) -> bool:
        """Whether its time is not over, and its VCH is still there."""
        record = decode(TokenRecord, row.value)
        if _is_over(record):
            return False
        if record.token.vch is None:
            return True
        try:
            return (await self._records.check_vch(record.token.vch)).id == record.vch_id
        except NotFound:
            return False


async def forget_tokens(records: Records, vch: str) -> None:
    """Delete the tokens of a VCH that goes."""
    rows = await records.store.range(keys.TOKENS)
    gone = [Delete(row.key) for row in rows if decode(TokenRecord, row.value).token.vch == vch]
    for first in range(0, len(gone), 100):
        await records.store.apply(Transaction(ops=gone[first : first + 100]))


def _check(request: m.CreateToken) -> None:
    if (request.role == "operator") != (request.vch is None):
        raise InvalidArgument("A viewer or user has a vch, and an operator, who has all, has none.", pointer="/vch")
    if _SUBJECT.fullmatch(request.subject) is None:
        raise InvalidArgument(
            "A subject has 1 to 128 letters, digits or ._:@/+-, and starts with a letter or digit.", pointer="/subject"
        )
    if request.ttl_seconds is not None and not 1 <= request.ttl_seconds <= MOST_SECONDS:
        raise InvalidArgument(f"ttlSeconds must be between 1 and {MOST_SECONDS}.", pointer="/ttlSeconds")


def _made(request: m.CreateToken, tenant: Tenant | None) -> tuple[m.NewToken, TokenRecord]:
    ident, moment = new_id(), time.time_ns()
    until = None if request.ttl_seconds is None else moment + request.ttl_seconds * _NANO
    token = m.Token(
        id=ident,
        subject=request.subject,
        role=request.role,
        vch=request.vch,
        created_at=rfc3339(moment),
        expires_at=None if until is None else rfc3339(until),
    )
    secret = f"plt_{ident}_{secrets.token_urlsafe(32)}"
    record = TokenRecord(token=token, digest=_digest(secret), vch_id=tenant.id if tenant else None, until=until)
    return m.NewToken(secret=secret, token=token), record


def _is_over(record: TokenRecord) -> bool:
    return record.until is not None and record.until <= time.time_ns()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
