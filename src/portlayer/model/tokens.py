"""Bearer tokens: what proves who somebody is, where the kernel cannot."""

from __future__ import annotations

from portlayer.model.access import Role
from portlayer.model.base import Value


class Token(Value):
    """A token as it is listed: all but the secret. vch: the tenant that it is for; None: an operator's, for all."""

    id: str
    subject: str
    role: Role
    vch: str | None = None
    created_at: str
    expires_at: str | None = None


class NewToken(Value):
    """A token that was just made. secret: what its holder sends; it is told this once, and kept by nobody."""

    secret: str
    token: Token


class Tokens(Value):
    tokens: tuple[Token, ...]
    next: str | None


class CreateToken(Value):
    """A viewer or user has a vch, an operator has none. ttl_seconds: how long it is good; None: until it is deleted."""

    subject: str
    role: Role
    vch: str | None = None
    ttl_seconds: int | None = None


class ListTokens(Value):
    limit: int = 100
    after: str | None = None


class TokenRef(Value):
    id: str
