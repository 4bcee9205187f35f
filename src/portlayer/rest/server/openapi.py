"""The OpenAPI 3.1 document, made from the table of calls and the types in it."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import msgspec

from portlayer import __version__
from portlayer.interfaces import execution, interaction, network, service, storage
from portlayer.rest.calls import CALLS, Call, Place
from portlayer.rest.calls.call import BYTES, JSON
from portlayer.rest.calls.examples import EXAMPLES
from portlayer.rest.calls.storage import PROGRESS
from portlayer.rest.problems import PROBLEM, Problem
from portlayer.rest.server.decode import IDEMPOTENCY_KEY

_REF = "#/components/schemas/{name}"
PROTOCOLS: dict[str, type] = {
    "service": service.Service,
    "storage": storage.Storage,
    "execution": execution.Execution,
    "network": network.Network,
    "interaction": interaction.Interaction,
}
_INTRODUCTION = """\
Containers as primitives. Take a handle, pass it through calls that each return a new one, and commit it: what was
composed then happens as one change, or not at all. Errors are RFC 9457 problem documents; `code` names the class."""

Schema = dict[str, Any]


@cache
def document() -> Schema:
    """The whole document. It only depends on the code, so it is made once."""
    paths: dict[str, Schema] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.verb.lower()] = _operation(call)
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "portlayer", "version": __version__, "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": _purpose(protocol)} for name, protocol in PROTOCOLS.items()],
        "paths": paths,
        "components": {"schemas": _schemas(), "responses": {"Problem": _problem_response()}},
    }
    plain: Schema = msgspec.json.decode(msgspec.json.encode(whole))  # values of the model become what JSON has
    return plain


def _purpose(protocol: type) -> str:
    """What a component is for, in the words of its interface's module."""
    return (sys.modules[protocol.__module__].__doc__ or "").strip()


def _schemas() -> Schema:
    types: list[Any] = [Problem]
    for call in CALLS:
        types += [each for each in (call.body, call.answer, call.also) if _is_struct(each)]
    return msgspec.json.schema_components(dict.fromkeys(types), ref_template=_REF)[1]


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _schema(kind: Any) -> Schema:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema


def _operation(call: Call[Any, Any]) -> Schema:
    operation: Schema = {
        "operationId": call.name.replace("/", "."),
        "tags": [call.component],
        "summary": call.summary or _words(call),
        "parameters": _parameters(call),
        "responses": _responses(call),
    }
    if call.consumes and not call.unsupported:
        operation["requestBody"] = _request_body(call)
    if call.unsupported:
        operation["x-offered"] = False
    return operation


def _words(call: Call[Any, Any]) -> str:
    text: str = getattr(PROTOCOLS[call.component], call.method).__doc__
    return " ".join(text.split())


def _parameters(call: Call[Any, Any]) -> list[Schema]:
    path = [_path_parameter(name) for name in call.parameters]
    query = [_parameter("query", info.encode_name, info) for info in call.at(Place.QUERY)]
    header = [_parameter("header", call.headers[info.name], info) for info in call.at(Place.HEADER)]
    if call.creates:
        key: Schema = {"type": "string", "minLength": 1, "maxLength": 255}
        header.append({"name": IDEMPOTENCY_KEY, "in": "header", "required": False, "schema": key})
    return [*path, *query, *header]


def _path_parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _parameter(place: str, name: str, info: msgspec.structs.FieldInfo) -> Schema:
    schema = _schema(info.type)
    if "anyOf" in schema:  # absent is how a parameter is null
        (schema,) = (each for each in schema["anyOf"] if each != {"type": "null"})
    if not info.required and info.default not in {None, msgspec.NODEFAULT, ()}:
        schema = {**schema, "default": info.default}
    return {"name": name, "in": place, "required": info.required, "schema": schema}


def _request_body(call: Call[Any, Any]) -> Schema:
    if call.body is None:
        return {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}
    content = _schema(call.body)
    required = any(info.required for info in msgspec.structs.fields(call.body))
    return {"required": required, "content": {JSON: {"schema": content, **_example(call, 0)}}}


def _responses(call: Call[Any, Any]) -> Schema:
    problem = {"$ref": "#/components/responses/Problem"}
    if call.unsupported:
        return {"501": problem, "default": problem}
    success: Schema = {"description": _describe(call)}
    if call.answer is not type(None):
        success["content"] = {kind: _media(call, kind) for kind in (call.produces, *call.also_produces)}
    carried = {str(status): success for status in (call.status, *call.statuses)}
    if PROGRESS in call.also_produces:
        carried["200"] = {
            "description": "Progress, then the answer or a problem, a line each.",
            **_only(call, PROGRESS),
        }
        success["content"].pop(PROGRESS)
    return {**carried, "default": problem}


def _only(call: Call[Any, Any], kind: str) -> Schema:
    return {"content": {kind: _media(call, kind)}}


def _describe(call: Call[Any, Any]) -> str:
    return {101: "A WebSocket", 201: "Created", 204: "Done"}.get(call.status, "The answer")


def _media(call: Call[Any, Any], kind: str) -> Schema:
    if kind != JSON:
        return {"schema": {"type": "string"} if kind.startswith("text/") else {"type": "string", "format": "binary"}}
    if call.also is None:
        return {"schema": _schema(call.answer), **_example(call, 1)}
    return {"schema": {"oneOf": [_schema(call.answer), _schema(call.also)]}, **_example(call, 1)}


def _example(call: Call[Any, Any], place: int) -> Schema:
    pair = EXAMPLES.get(call)
    return {} if pair is None else {"example": msgspec.to_builtins(pair[place])}


def _problem_response() -> Schema:
    return {"description": "A problem; `code` is its class", "content": {PROBLEM: {"schema": _schema(Problem)}}}
