"""Bearer tokens: `plt_<id>_<256 random bits>`, of which the store has a digest alone."""

from __future__ import annotations

import re
import secrets

from portlayer.components.grants import Grants
from portlayer.components.records import Records
from portlayer.model import grants as g
from portlayer.model.access import Identity

MOST_SECONDS = 10 * 366 * 86400
_SECRET = re.compile(r"plt_([0-9a-f]{32})_[A-Za-z0-9_-]{43}", re.ASCII)


class TokenBook:
    """Makes, lists, deletes and recognises tokens."""

    def __init__(self, records: Records) -> None:
        self.grants = Grants(records, "token", MOST_SECONDS)

    async def create(self, request: g.CreateToken) -> g.NewToken:
        """Raises InvalidArgument; NotFound for a VCH that is not there."""
        random = secrets.token_urlsafe(32)
        token = await self.grants.add(request, lambda token: _secret(token, random).encode())
        return g.NewToken(secret=_secret(token, random), token=token)

    async def page(self, request: g.ListGrants) -> g.Tokens:
        """Tokens by id."""
        found, following = await self.grants.page(request)
        return g.Tokens(tokens=found, next=following)

    async def identify(self, secret: str) -> Identity | None:
        """Whose token *secret* is, as of now; None: no good one's."""
        match = _SECRET.fullmatch(secret)
        return await self.grants.holder(match[1], secret.encode()) if match else None


def _secret(token: g.Grant, random: str) -> str:
    return f"plt_{token.id}_{random}"
