"""Settings of who may: `[users.<uid>]` on the unix socket, `[tls.clients."<subject>"]` with a certificate of a given
CA; each with `role`, and `vch` and `subject` where wanted."""

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
    return {_uid(uid): _identity(f"users.{uid}", user, f"uid:{uid}") for uid, user in _read("users", table).items()}


def read_clients(table: object) -> dict[str, Identity]:
    """Identities by the subject of their certificates. Raises InvalidArgument for what is no such table."""
    users = _read("tls.clients", table)
    return {subject: _identity(f'tls.clients."{subject}"', user, subject) for subject, user in users.items()}


def _read(where: str, table: object) -> dict[str, _User]:
    try:
        return msgspec.convert(table, dict[str, _User])
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{where}: {error}.") from None


def _uid(uid: str) -> int:
    if not (uid.isascii() and uid.isdecimal() and 0 < int(uid) < 2**32 - 1):
        raise InvalidArgument(f"users: {uid!r} is no uid of a user; root is the operator always.")
    return int(uid)


def _identity(where: str, user: _User, subject: str) -> Identity:
    if (user.role == "operator") != (user.vch is None):
        raise InvalidArgument(f"{where}: a viewer or user has a vch, and an operator, who has all, has none.")
    return Identity(subject=user.subject or subject, role=user.role, vch=user.vch)
