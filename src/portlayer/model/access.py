"""Who may do what: one question, answered from what is known of the caller alone, before anything is looked up."""

from __future__ import annotations

import re
from typing import Literal

from portlayer.model.base import Value
from portlayer.model.errors import NotFound, PermissionDenied, Unauthenticated

Role = Literal["viewer", "user", "operator"]
"""A viewer looks, a user changes what a VCH holds as well, an operator has everything."""
Needed = Literal["anyone", "viewer", "user", "operator"]
"""What a call asks for. `anyone`: also those of whom nothing is known."""
_RANKS: dict[Needed, int] = {"anyone": 0, "viewer": 1, "user": 2, "operator": 3}
MASK = "***"
_SECRET = re.compile(r"(plt_[0-9a-f]{32})_[A-Za-z0-9_-]+", re.ASCII)


class Identity(Value):
    """Who somebody is. vch: the only tenant that is open to them; None: all. how: what proved it. until: when that ends
    by itself, in seconds since the epoch, where it is in no record of ours."""

    subject: str
    role: Role
    vch: str | None = None
    how: str = "peer"
    until: float | None = None


ROOT = Identity(subject="root", role="operator")


def decide(identity: Identity | None, needed: Needed, vch: str | None) -> None:
    """Whether *identity* may make a call that needs *needed*, for tenant *vch* (None: for the whole port layer).

    Raises:
        Unauthenticated: nothing is known of the caller.
        NotFound: the tenant is not theirs; it may be there or not, the words are the same.
        PermissionDenied: their role is too low.
    """
    if needed == "anyone":
        return
    if identity is None:
        raise Unauthenticated(
            "This port layer does not know you, or no more; ask its operator for a token or a certificate."
        )
    if identity.vch is not None and vch not in (None, identity.vch):
        raise NotFound(f"There is no VCH called {str(vch)[:140]!r}.", kind="vch", id=vch)
    if not allows(identity.role, needed):
        raise PermissionDenied(f"This call needs the role {needed}; yours is {identity.role}.")


def allows(role: Role, needed: Needed) -> bool:
    """Whether *role* is enough where *needed* is."""
    return _RANKS[role] >= _RANKS[needed]


def masked(env: tuple[str, ...]) -> tuple[str, ...]:
    """Environment variables with their names alone."""
    return tuple(f"{each.partition('=')[0]}={MASK}" for each in env)


def without_secrets(text: str) -> str:
    """*text*, with what is secret of tokens masked: some ask for one by its secret instead of its id."""
    return _SECRET.sub(rf"\1_{MASK}", text)
