"""What every store asks of keys and transactions, and the order of keys.

Keys are ordered by code point, which is also the order of their UTF-8 bytes: Python, SQLite and etcd agree on it.
"""

from __future__ import annotations

import math

from portlayer.interfaces.store import Check, Delete, Put, Transaction
from portlayer.model.errors import InvalidArgument

LAST = 0x10FFFF
FIRST_SURROGATE, AFTER_SURROGATES = 0xD800, 0xE000


def require_text(key: str) -> str:
    """*key*; refuses what UTF-8 cannot say (lone surrogates)."""
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"The key {key!r} is not valid Unicode; leave out lone surrogates.") from None
    return key


def bounds(prefix: str, after: str = "") -> tuple[str, str | None]:
    """The keys with *prefix* beyond *after* as a range: lower (included), upper (excluded; None: no end)."""
    require_text(prefix)
    # There is no string between `after` and `after` with a NUL behind it.
    lower = max(prefix, require_text(after) + "\0") if after else prefix
    return lower, prefix_end(prefix)


def prefix_end(prefix: str) -> str | None:
    """The smallest string above all that start with *prefix*; None if there is none."""
    stem = prefix.rstrip(chr(LAST))
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    if following == FIRST_SURROGATE:
        following = AFTER_SURROGATES
    return stem[:-1] + chr(following)


def validate(transaction: Transaction) -> None:
    """Refuse what no store can do. One transaction writes a key once, as in etcd: a watcher sees each change whole.

    Raises:
        InvalidArgument: an empty key, one written twice, lone surrogates, a ttl that is no positive number.
    """
    for check in transaction.checks:
        require_text(check.key if isinstance(check, Check) else check.prefix)
    written = set()
    for op in transaction.ops:
        _validate_op(op)
        written.add(op.key)
    if len(written) != len(transaction.ops):
        raise InvalidArgument("A transaction writes one key twice; write it once, with the last value.")


def _validate_op(op: Put | Delete) -> None:
    if not op.key:
        raise InvalidArgument("A record needs a key; give one that is not empty.")
    require_text(op.key)
    ttl = op.ttl_seconds if isinstance(op, Put) else None
    if ttl is not None and not 0 < ttl < math.inf:
        raise InvalidArgument(f"The ttl of {op.key!r} is {ttl}; give seconds above 0, or None for a record that stays.")
