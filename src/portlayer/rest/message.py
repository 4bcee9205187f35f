"""A call on its way: what of it stands in an HTTP request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from portlayer.rest.calls import Call


class Message(NamedTuple):
    """A *call* in the form in which it travels. target: path and query. headers: that are about the call itself, other
    than the body's type. body: None where there is none."""

    call: Call[Any, Any]
    target: str
    headers: Mapping[str, str]
    body: bytes | None
