"""The readable page: the OpenAPI document as one HTML file that needs nothing from elsewhere."""

from __future__ import annotations

import json
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from portlayer.rest.server import openapi

_PREFIX = "#/components/schemas/"


@cache
def page() -> str:
    """The page. Its frame is `docs.html` beside this module."""
    document = openapi.document()
    operations = [
        (tag["name"], verb, path, operation)
        for tag in document["tags"]
        for path, item in document["paths"].items()
        for verb, operation in item.items()
        if tag["name"] in operation["tags"]
    ]
    sections = "".join(
        f"<h2 id='{tag['name']}'>{tag['name']}</h2><p>{_text(tag['description'])}</p>"
        + "".join(
            _operation(verb, path, operation) for name, verb, path, operation in operations if name == tag["name"]
        )
        for tag in document["tags"]
    )
    schemas = "".join(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items()))
    frame = files("portlayer.rest.server").joinpath("docs.html").read_text()
    parts = {
        "{{introduction}}": _text(document["info"]["description"]),
        "{{version}}": escape(document["info"]["version"]),
        "{{tags}}": "".join(f"<a href='#{tag['name']}'>{tag['name']}</a>" for tag in document["tags"]),
        "{{operations}}": sections,
        "{{schemas}}": schemas,
    }
    for mark, part in parts.items():
        frame = frame.replace(mark, part)
    return frame


def _text(words: str) -> str:
    """Escaped *words*, with what stands in backquotes as code."""
    pieces = escape(words).split("`")
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))


def _operation(verb: str, path: str, operation: dict[str, Any]) -> str:
    offered = "" if operation.get("x-offered", True) else " class='later'"
    body = operation.get("requestBody", {}).get("content", {})
    details = (
        _parameters(operation["parameters"])
        + "".join(_content("Body", kind, media) for kind, media in body.items())
        + "".join(_response(status, response) for status, response in operation["responses"].items())
    )
    return (
        f"<details{offered} id='{operation['operationId']}'><summary><b class='{verb}'>{verb.upper()}</b> "
        f"<code>{escape(path)}</code> <span>{_text(operation['summary'])}</span></summary>{details}</details>"
    )


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><code>{each['name']}</code>{'' if each['required'] else '?'}</td><td>{each['in']}</td>"
        f"<td>{_type(each['schema'])}</td></tr>"
        for each in parameters
    )
    return f"<table>{rows}</table>" if rows else ""


def _response(status: str, response: dict[str, Any]) -> str:
    if "$ref" in response:
        return ""
    contents = response.get("content", {})
    if not contents:
        return f"<p><b>{status}</b> {escape(response['description'])}</p>"
    return "".join(_content(status, kind, media) for kind, media in contents.items())


def _content(label: str, kind: str, media: dict[str, Any]) -> str:
    example = f"<pre>{escape(json.dumps(media['example'], indent=2))}</pre>" if media.get("example") else ""
    return f"<p><b>{label}</b> {escape(kind)}: {_type(media['schema'])}</p>{example}"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{field}</code>{'' if field in required else '?'}</td><td>{_type(kind)}</td></tr>"
        for field, kind in schema.get("properties", {}).items()
    )
    words = _text(schema.get("description", ""))
    return (
        f"<details id='schema-{name}'><summary><code>{name}</code></summary>"
        f"<p>{words}</p><table>{rows}</table></details>"
    )


def _type(schema: dict[str, Any]) -> str:
    match schema:
        case {"$ref": str(ref)}:
            name = ref.removeprefix(_PREFIX)
            return f"<a href='#schema-{name}'>{name}</a>"
        case {"enum": list(values)}:
            return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
        case {"anyOf": list(some)} | {"oneOf": list(some)}:
            return " | ".join(_type(each) for each in some)
        case {"type": "array", "items": dict(items)}:
            return f"[{_type(items)}]"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"{{string: {_type(values)}}}"
        case _:
            return escape(str(schema.get("type", "any")))
