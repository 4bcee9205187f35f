"""The one table between the taxonomy of errors and RFC 9457 problem documents, both ways.

A document carries the class in `code` and its facts beside it, so the other side raises the same class again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from portlayer.model import errors as e
from portlayer.model.base import Value

PROBLEM = "application/problem+json"
INTERNAL = "Internal"

TABLE: dict[type[e.PortlayerError], tuple[int, str]] = {
    e.InvalidArgument: (400, "The request is wrong in itself"),
    e.Unauthenticated: (401, "Who is asking is not known"),
    e.PermissionDenied: (403, "Who is asking may not do this"),
    e.NotFound: (404, "There is no such thing"),
    e.AlreadyExists: (409, "It is there already"),
    e.InvalidState: (409, "Not possible in the present state"),
    e.Conflict: (409, "Another commit changed what this one relied on"),
    e.HandleInvalid: (410, "The handle cannot be opened"),
    e.InUse: (423, "Something still uses it"),
    e.ResourceExhausted: (429, "There is no more of it"),
    e.Unsupported: (501, "Understood, but not offered here"),
    e.SubstrateFailed: (502, "A step on the host failed"),
    e.Unavailable: (503, "Not now"),
    e.DeadlineExceeded: (504, "The time given was not enough"),
}
_BY_STATUS = {status: error for error, (status, _) in reversed(TABLE.items())}


class Problem(Value):
    """What a problem document may hold: the members of RFC 9457, `code`, and the facts of that class."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    pointer: str | None = None
    kind: str | None = None
    id: str | None = None
    state: str | None = None
    collisions: tuple[str, ...] | None = None
    users: tuple[str, ...] | None = None
    resource: str | None = None
    limit: float | None = None
    used: float | None = None
    requested: float | None = None
    option: str | None = None
    step: str | None = None
    retry_after_seconds: float | None = None
    refused: bool | None = None


_JSON_NAMES = {info.name: info.encode_name for info in msgspec.structs.fields(Problem)}


def document(error: e.PortlayerError, status: int | None = None) -> dict[str, Any]:
    """The problem document of *error*; *status* where HTTP has a closer one than its class."""
    usual, title = TABLE[type(error)]
    return {
        "type": f"urn:portlayer:problem:{error.code}",
        "title": title,
        "status": status or usual,
        "detail": error.detail,
        "code": error.code,
        **{_JSON_NAMES[name]: value for name, value in error.facts.items()},
    }


def internal() -> dict[str, Any]:
    """The document of what must not happen. It tells nothing of our insides; the log does."""
    return {
        "type": f"urn:portlayer:problem:{INTERNAL}",
        "title": "A fault of the port layer",
        "status": 500,
        "detail": "The port layer failed in a way that it should not; its log says how. Please report it.",
        "code": INTERNAL,
    }


def headers(problem: Mapping[str, Any]) -> dict[str, str]:
    """What a problem adds to the headers: Retry-After, in whole seconds; and what would prove who asks."""
    if problem["status"] == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": 'Bearer realm="portlayer"'}
    seconds = problem.get(_JSON_NAMES["retry_after_seconds"])
    return {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


def error_of(status: int, body: bytes) -> e.PortlayerError:
    """The error that an answer with *status* and *body* stands for.

    By its code; an answer that is no document of ours (a proxy's) by its status alone.
    """
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = {}
    return error_from(problem, status)


def error_from(problem: Mapping[str, Any], status: int = 500) -> e.PortlayerError:
    """The error that a problem document stands for."""
    detail = str(problem.get("detail", "")) or f"The server answered {status} {_phrase(status)}."
    error = e.BY_CODE.get(str(problem.get("code", "")))
    if error is None:
        return _fallback(status)(detail)
    facts = {name: problem[_JSON_NAMES[name]] for name in error.fields if _JSON_NAMES[name] in problem}
    return error(detail, **facts)


def _fallback(status: int) -> type[e.PortlayerError]:
    return _BY_STATUS.get(status) or (e.InvalidArgument if 400 <= status < 500 else e.Unavailable)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
