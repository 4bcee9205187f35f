"""The base of every value that crosses a boundary: API, handle or store."""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime
from typing import Any, dataclass_transform

import msgspec


class _ValueMeta(msgspec.StructMeta):
    """Hands `kw_only` down: msgspec applies it to a class's own fields alone."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> _ValueMeta:
        return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **config})


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Value(
    msgspec.Struct,
    metaclass=_ValueMeta,
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename="camel",
):
    """A frozen value; JSON is lowerCamelCase and unknown fields are refused.

    A field without a default is always written; an optional one is left out while it has its default.
    """


def rfc3339(nanoseconds: int) -> str:
    """Wall clock *nanoseconds* since the epoch as RFC 3339 in UTC, with nine decimals."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_whole(seconds)}.{rest:09d}Z"


@functools.lru_cache(maxsize=16)
def _whole(seconds: int) -> str:
    """Nearly always the same as the last one."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def now() -> str:
    """The wall clock as RFC 3339 with nanoseconds; for display and logs, never for leases."""
    return rfc3339(time.time_ns())
