"""Bearer tokens: `plt_<id>_<256 bits>`, of which the store has a digest alone.

The bits are random; or, where the caller has an Idempotency-Key, they follow from the host's key, that key, who asked
for what, and the id. So a repeated request is told the same secret again, though nobody has kept it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable

import msgspec

from portlayer.components.grants import Grants, digest
from portlayer.components.records import Records
from portlayer.components.replays import Replays
from portlayer.model import grants as g
from portlayer.model.access import Identity
from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.errors import InvalidState

MOST_SECONDS = 10 * 366 * 86400
_SECRET = re.compile(r"plt_([0-9a-f]{32})_[A-Za-z0-9_-]{43}", re.ASCII)
_PURPOSE = b"portlayer token 1"


class Told(Value):
    """What is kept of an answer. digest: of its secret."""

    token: g.Grant
    digest: str


class TokenBook:
    """Makes, lists, deletes and recognises tokens. key: 32 bytes, the same in all processes of one port layer."""

    def __init__(self, records: Records, replays: Replays, key: bytes) -> None:
        self.grants = Grants(records, replays, "token", MOST_SECONDS)
        self._key = hmac.digest(key, _PURPOSE, hashlib.sha256)

    async def create(self, caller: Caller, request: g.CreateToken) -> g.NewToken:
        """Raises InvalidArgument; NotFound for a VCH that is not there; InvalidState for a secret that can be told no
        more."""
        bits = self._bits(caller, request)

        def prove(token: g.Grant) -> tuple[bytes, Told]:
            secret = _secret(token, bits(token)).encode()
            return secret, Told(token=token, digest=digest(secret))

        told = await self.grants.add(caller, request, Told, prove)
        secret = _secret(told.token, bits(told.token))
        if digest(secret.encode()) != told.digest:
            raise InvalidState(
                f"The secret of token {told.token.id} went with the host's key of before; make another one, under "
                "another Idempotency-Key.",
                kind="token",
                id=told.token.id,
            )
        return g.NewToken(secret=secret, token=told.token)

    def _bits(self, caller: Caller, request: g.CreateToken) -> Callable[[g.Grant], bytes]:
        if caller.idempotency_key is None:
            random = secrets.token_bytes(32)
            return lambda _token: random
        said = (caller.subject, caller.role, caller.idempotency_key, request)
        return lambda token: hmac.digest(self._key, msgspec.json.encode((*said, token.id)), hashlib.sha256)

    async def page(self, request: g.ListGrants) -> g.Tokens:
        """Tokens by id."""
        found, following = await self.grants.page(request)
        return g.Tokens(tokens=found, next=following)

    async def identify(self, secret: str) -> Identity | None:
        """Whose token *secret* is, as of now; None: no good one's."""
        match = _SECRET.fullmatch(secret)
        return await self.grants.holder(match[1], secret.encode()) if match else None


def _secret(token: g.Grant, bits: bytes) -> str:
    return f"plt_{token.id}_{base64.urlsafe_b64encode(bits).decode().rstrip('=')}"
