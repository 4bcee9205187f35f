"""From a request of the model to what travels, as the table says where each field does."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.errors import InvalidArgument, NotFound
from portlayer.rest.calls import Call, Place
from portlayer.rest.message import Message
from portlayer.rest.query import written

Q = TypeVar("Q", bound=Value)


def message(call: Call[Q, Any], caller: Caller, request: Q) -> Message:
    """*request*, whole. Raises InvalidArgument or NotFound for what cannot be sent."""
    content = body(call, request) if call.consumes else None
    return Message(call, target(call, caller, request), headers(call, caller, request), content)


def target(call: Call[Q, Any], caller: Caller, request: Q) -> str:
    """Path and query."""
    segments = {name: _segment(caller.vch if name == "vch" else getattr(request, name)) for name in call.parameters}
    query = "&".join(
        f"{info.encode_name}={quote(text, safe='')}"
        for info in call.at(Place.QUERY)
        if (value := getattr(request, info.name)) not in (None, info.default)
        for text in written(value)
    )
    return f"{call.path.format(**segments)}{'?' if query else ''}{query}"


def headers(call: Call[Q, Any], caller: Caller, request: Q) -> dict[str, str]:
    """Those that carry something of the call itself."""
    told = {}
    if caller.idempotency_key is not None:
        told["Idempotency-Key"] = _printable(caller.idempotency_key)
    for name, header in call.headers.items():
        value = getattr(request, name)
        if value is not None:
            told[header] = value if value == "*" else f'"{_printable(value)}"'
    return told


def body(call: Call[Q, Any], request: Q) -> bytes:
    """The whole body."""
    for info in call.at(Place.CONTENT):
        content: bytes = getattr(request, info.name)
        return content
    if call.body is call.request:
        return msgspec.json.encode(request)
    inside = {info.name: getattr(request, info.name) for info in call.at(Place.BODY)}
    return msgspec.json.encode(call.body(**inside)) if call.body else b""


def _segment(value: str) -> str:
    """*value* as one segment of a path; these three would make it another path."""
    if value in {"", ".", ".."}:
        raise NotFound(f"Nothing is called {value!r}.", id=value)
    return quote(value, safe="")


def _printable(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise InvalidArgument(f"{value!r} cannot be sent in a header; use printable ASCII.")
    return value
