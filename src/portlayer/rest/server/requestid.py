"""Ids of requests: they tie an answer to the lines of the logs that are about it."""

from __future__ import annotations

import random
import re

from aiohttp import web

HEADER = "X-Request-ID"
_KEY = web.RequestKey("request-id", str)
_FIT = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def request_id(http: web.BaseRequest) -> str:
    """The id of *http*: the one that its sender gave, where it is fit to be one; else a new one, the same each time."""
    known: str | None = http.get(_KEY)
    if known is None:
        given = http.headers.get(HEADER, "")
        known = http[_KEY] = given if _FIT.fullmatch(given) else f"{random.getrandbits(64):016x}"
    return known
