"""Settings of who may use the unix socket: `[users.<uid>]` with `role`, and `vch` and `subject` where wanted."""

from __future__ import annotations

import msgspec

from portlayer.model.access import Identity, Role
from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument


class _User(Value):
    role: Role
    vch: str | None = None
    subject: str | None = None


def read_users(table: object) -> dict[int, Identity]:
    """Identities by uid. Raises InvalidArgument for what is no such table."""
    try:
        users = msgspec.convert(table, dict[str, _User])
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"users: {error}.") from None
    return dict(_identity(uid, user) for uid, user in users.items())


def _identity(uid: str, user: _User) -> tuple[int, Identity]:
    if not (uid.isascii() and uid.isdecimal() and 0 < int(uid) < 2**32 - 1):
        raise InvalidArgument(f"users: {uid!r} is no uid of a user; root is the operator always.")
    if (user.role == "operator") != (user.vch is None):
        raise InvalidArgument(f"users.{uid}: a viewer or user has a vch, and an operator, who has all, has none.")
    return int(uid), Identity(subject=user.subject or f"uid:{uid}", role=user.role, vch=user.vch)
