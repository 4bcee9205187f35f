"""Points in time as callers write them."""

from __future__ import annotations

from datetime import UTC, datetime

from portlayer.model.errors import InvalidArgument


def parse_time(text: str, pointer: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time, or of seconds since the epoch with up to nine decimals.

    Raises:
        InvalidArgument: neither.
    """
    whole, dot, part = text.partition(".")
    if whole.isdecimal() and len(whole) < 13 and (not dot or (part.isdecimal() and len(part) < 10)):
        return int(whole) * 1_000_000_000 + int(part.ljust(9, "0") if part else 0)
    try:
        moment = datetime.fromisoformat(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidArgument(
            f"{text[:60]!r} is no time; use RFC 3339 or seconds since the epoch.", pointer=pointer
        ) from None
    return int(seconds * 1_000_000_000)
