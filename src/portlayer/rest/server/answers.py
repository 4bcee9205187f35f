"""What the server answers with: JSON, nothing, or a problem document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from portlayer.model.errors import PortlayerError
from portlayer.rest import problems
from portlayer.rest.calls.call import JSON

_encode = msgspec.json.Encoder().encode


class Refused(Exception):
    """An error for which HTTP has a closer status than its class has, or that needs headers."""

    def __init__(self, error: PortlayerError, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error.detail)
        self.error = error
        self.status = status
        self.headers = dict(headers or {})


def json_answer(value: Any, status: int = 200) -> web.Response:
    """*value* as JSON; None is an answer without a body."""
    return written_answer(b"" if value is None else _encode(value), status)


def written_answer(body: bytes, status: int) -> web.Response:
    """*body* is JSON, or empty."""
    if not body:
        return web.Response(status=status)
    return web.Response(body=body, status=status, content_type=JSON)


def problem_answer(error: Exception) -> web.Response:
    """*error* as a problem document; what is not of the taxonomy is a fault of ours."""
    headers: dict[str, str] = {}
    match error:
        case Refused():
            document, headers = problems.document(error.error, error.status), error.headers
        case PortlayerError():
            document = problems.document(error)
        case _:
            document = problems.internal()
    headers |= problems.headers(document)
    return web.Response(
        body=_encode(document), status=document["status"], headers=headers, content_type=problems.PROBLEM
    )
