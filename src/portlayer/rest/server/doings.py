"""What a call has done, as its answer says: the audit log tells of that, and not only that somebody committed."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from aiohttp import web

from portlayer.rest.calls.call import JSON
from portlayer.rest.problems import PROBLEM


class Doing(NamedTuple):
    """status: None where the caller went away first. code: of the problem. ids: of what was changed, or made."""

    status: int | None = None
    code: str | None = None
    ids: tuple[str, ...] = ()


class _One(msgspec.Struct):
    id: str | None = None


class _Said(_One):
    """As much of an answer as says what there is now. code: of a problem."""

    code: str | None = None
    containers: tuple[_One, ...] = ()
    images: tuple[_One, ...] = ()
    answers: tuple[_One | None, ...] = ()
    token: _One | None = None
    certificate: _One | None = None


_decoder = msgspec.json.Decoder(_Said)


def doing_of(response: web.StreamResponse, *, acts: bool) -> Doing:
    """What *response* says. acts: whether the call changes something, so that ids in it are of what was changed."""
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes) or not response.body:
        return Doing(response.status)
    if response.content_type == PROBLEM:
        return Doing(response.status, _decoder.decode(response.body).code)
    if response.content_type != JSON or not acts:
        return Doing(response.status)
    try:
        said = _decoder.decode(response.body)
    except msgspec.ValidationError:  # it has such words for something else
        return Doing(response.status)
    ones = [said, *said.containers, *said.images, *filter(None, (*said.answers, said.token, said.certificate))]
    ids = dict.fromkeys(one.id for one in ones if one.id is not None)
    return Doing(response.status, ids=tuple(ids))
