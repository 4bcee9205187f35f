"""What one call of the REST API is: the row that server, client and OpenAPI document are all driven by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from portlayer.model.access import Needed
from portlayer.model.base import Value
from portlayer.model.storage import Nothing

V1 = "/v1"
VCH = f"{V1}/vchs/{{vch}}"

JSON = "application/json"
BYTES = "application/octet-stream"
TEXT = "text/plain"

BODY_CONFIG: dict[str, Any] = {
    "frozen": True,
    "kw_only": True,
    "omit_defaults": True,
    "forbid_unknown_fields": True,
    "rename": "camel",
}
"""The same rules as `Value` has, for the types that are derived from requests."""

Q = TypeVar("Q", bound=Value)
A = TypeVar("A")
_PARAMETER = re.compile(r"\{(\w+)\}")


class Place(Enum):
    """Where a field of a request travels."""

    PATH = "path"
    QUERY = "query"
    HEADER = "header"
    BODY = "body"
    CONTENT = "content"  # the field is the whole raw body


@dataclass(frozen=True, eq=False, kw_only=True)
class Call(Generic[Q, A]):
    """One call: `<component>.<method>(caller, request) -> answer`, and how it travels.

    name: `<component>/<rest>`, unique; a mutation has it in its path and in `execution/compose`.
    method: of the component's Protocol; empty where the server answers by itself.
    path: a template; `{vch}` is the tenant, any other `{name}` a field of the request.
    consumes: media type of the body, or None. JSON carries the request's fields, others are streamed.
    status: of success. 204 goes with an answer of None.
    mutation: takes a handle and may be sent twice without harm: allowed in a compose.
    acts: changes something, so it is finished even when the caller goes away in the middle.
    leaves: its component sees to that itself, and forgets what it has not begun when the caller goes away.
    streams: the answer goes on for as long as it likes; ended when the server drains.
    headers: field name -> header that carries it.
    also: another type of answer that the call may give.
    statuses: other statuses that carry the answer too.
    unsupported: why this call is known but not offered; such a call always answers 501.
    needs: the role that it takes, where that is not the usual one (see `role`).
    summary: for the document, where there is no method to take it from.
    """

    component: str
    method: str
    name: str
    verb: str
    path: str
    request: type[Q]
    answer: type[A]
    consumes: str | None = None
    produces: str = JSON
    status: int = 200
    mutation: bool = False
    acts: bool = False
    leaves: bool = False
    streams: bool = False
    creates: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    also: type[Value] | None = None
    also_produces: tuple[str, ...] = ()
    statuses: tuple[int, ...] = ()
    unsupported: str = ""
    needs: Needed | None = None
    summary: str = ""

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names in the path's template, `vch` included."""
        return tuple(_PARAMETER.findall(self.path))

    @cached_property
    def tenant(self) -> str | None:
        """The parameter that names the tenant whose things this is about; None: the port layer as a whole."""
        if "vch" in self.parameters:
            return "vch"
        return "ref" if self.path == f"{V1}/vchs/{{ref}}" else None

    @cached_property
    def role(self) -> Needed:
        """The role that it takes. Usually: in a VCH, to look a viewer, else a user; of the whole, an operator."""
        if self.needs:
            return self.needs
        if "vch" not in self.parameters:
            return "operator"
        return "viewer" if self.verb == "GET" else "user"

    @cached_property
    def lasts(self) -> bool:
        """Whether it goes on for as long as its caller likes: by its body, its answer, or because it waits."""
        return self.streams or self.consumes not in {None, JSON} or self.method == "wait"

    @cached_property
    def short(self) -> bool:
        """Whether it is of one VCH, and takes a moment of the processor and nothing else."""
        return "vch" in self.parameters and not (self.acts or self.lasts)

    @cached_property
    def plain(self) -> bool:
        """Whether body and answer are JSON, or nothing, and no header has a part: it can be passed on as it is."""
        whole = self.consumes in {None, JSON} and self.produces == JSON
        return whole and not (self.streams or self.headers or self.unsupported)

    @cached_property
    def whole(self) -> bool:
        """Whether body and answer have their ends, and are no archives: they can be here at once."""
        return self.consumes in {None, JSON} and self.produces != BYTES and not self.streams

    @cached_property
    def audited(self) -> bool:
        """Whether the audit log is told: of what changes something, or may write to a container."""
        return self.acts or (self.verb == "POST" and not self.mutation) or (self.streams and self.role != "viewer")

    @cached_property
    def fields(self) -> Mapping[str, msgspec.structs.FieldInfo]:
        """The request's fields by name."""
        return {info.name: info for info in msgspec.structs.fields(self.request)}

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each field travels: path, else header, else the body where there is one, else the query."""
        return {name: self._place(info) for name, info in self.fields.items()}

    def _place(self, info: msgspec.structs.FieldInfo) -> Place:
        if info.name in self.parameters:
            return Place.PATH
        if info.name in self.headers:
            return Place.HEADER
        if info.type is bytes:
            return Place.CONTENT
        return Place.BODY if self.consumes == JSON else Place.QUERY

    def at(self, place: Place) -> tuple[msgspec.structs.FieldInfo, ...]:
        """The request's fields that travel at *place*."""
        return tuple(info for name, info in self.fields.items() if self.places[name] is place)

    @cached_property
    def body(self) -> type[msgspec.Struct] | None:
        """What the JSON body is decoded to: the request itself, or the part of it that is not in the path."""
        if self.consumes != JSON:
            return None
        inside = self.at(Place.BODY)
        return self.request if len(inside) == len(self.fields) else derived(f"{self.request.__name__}Body", inside)

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when the answer was lost."""
        return self.mutation or self.verb == "GET"


def derived(name: str, fields: tuple[msgspec.structs.FieldInfo, ...], **config: Any) -> type[msgspec.Struct]:
    """A Struct of some *fields* of another, as strict as that one."""
    return msgspec.defstruct(name, [_definition(info) for info in fields], **{**BODY_CONFIG, **config})


def _definition(info: msgspec.structs.FieldInfo) -> tuple[str, Any] | tuple[str, Any, Any]:
    if info.default_factory is not msgspec.NODEFAULT:
        return info.name, info.type, msgspec.field(default_factory=info.default_factory)
    if info.default is not msgspec.NODEFAULT:
        return info.name, info.type, info.default
    return info.name, info.type


class Table:
    """The calls of one component, collected while its module is read."""

    def __init__(self, component: str) -> None:
        self._component = component
        self._calls: list[Call[Any, Any]] = []

    @property
    def calls(self) -> tuple[Call[Any, Any], ...]:
        """All that was added."""
        return tuple(self._calls)

    def mutation(self, verb: str, request: type[Q], answer: type[A], **more: Any) -> Call[Q, A]:
        """POST of a handle, answered with the next one."""
        more = {"method": verb.replace("-", "_"), "mutation": True, "acts": False, **more}
        return self.post(verb, verb, request, answer, **more)

    def get(self, name: str, path: str, request: type[Q], answer: type[A], **more: Any) -> Call[Q, A]:
        return self._add(name, "GET", path, request, answer, **more)

    def post(self, name: str, path: str, request: type[Q], answer: type[A], **more: Any) -> Call[Q, A]:
        return self._add(name, "POST", path, request, answer, **{"consumes": JSON, "acts": True, **more})

    def create(self, name: str, path: str, request: type[Q], answer: type[A], **more: Any) -> Call[Q, A]:
        """POST that creates without a handle: 201, and an Idempotency-Key makes it safe to repeat."""
        return self.post(name, path, request, answer, status=201, creates=True, **more)

    def put(self, name: str, path: str, request: type[Q], answer: type[A], **more: Any) -> Call[Q, A]:
        return self._add(name, "PUT", path, request, answer, acts=True, **more)

    def patch(self, name: str, path: str, request: type[Q], answer: type[A], **more: Any) -> Call[Q, A]:
        """What is left out of the body stays as it is."""
        return self._add(name, "PATCH", path, request, answer, consumes=JSON, acts=True, **more)

    def delete(self, name: str, path: str, request: type[Q], **more: Any) -> Call[Q, None]:
        return self._add(name, "DELETE", path, request, type(None), acts=True, **more)

    def unsupported(self, verb: str, path: str, why: str) -> None:
        """A call of the contract that is not offered yet."""
        words = re.findall(r"\w+", path.removeprefix(V1))
        name = "-".join([verb.lower(), *words])
        self._add(name, verb, path, Nothing, type(None), method="", unsupported=why, summary=f"Not offered: {why}.")

    def _add(self, name: str, verb: str, path: str, request: type[Q], answer: type[A], **more: Any) -> Call[Q, A]:
        settings = {"method": name.replace("-", "_"), **more}
        if answer is type(None):
            settings.setdefault("status", 204)
        call = Call[Q, A](
            component=self._component,
            name=f"{self._component}/{name}",
            verb=verb,
            path=path if path.startswith("/") else f"{VCH}/{self._component}/{path}",
            request=request,
            answer=answer,
            **settings,
        )
        self._calls.append(call)
        return call
