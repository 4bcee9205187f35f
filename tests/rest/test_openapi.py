"""The document is OpenAPI 3.1, and has exactly the calls that the server has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import msgspec
import pytest
import schemathesis

from portlayer.rest.calls import CALLS
from portlayer.rest.calls.examples import EXAMPLES
from portlayer.rest.server import docs, openapi
from portlayer.rest.server.router import Router

DOCUMENT = openapi.document()


def operations() -> set[tuple[str, str]]:
    return {(verb.upper(), path) for path, item in DOCUMENT["paths"].items() for verb in item}


def test_it_validates() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()


def test_it_has_every_call_and_no_other() -> None:
    assert operations() == {(call.verb, call.path) for call in CALLS}
    assert len(operations()) == len(CALLS)
    assert len({call.name for call in CALLS}) == len(CALLS)


def test_every_call_can_be_reached() -> None:
    router = Router(CALLS)
    for call in CALLS:
        path = re.sub(r"\{\w+\}", "some", call.path)
        assert router.resolve(call.verb, path) == (call, dict.fromkeys(call.parameters, "some"))


def references(node: Any) -> Iterator[str]:
    match node:
        case {"$ref": str(ref)}:
            yield ref
        case dict():
            for value in node.values():
                yield from references(value)
        case list() | tuple():
            for value in node:
                yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    for ref in set(references(DOCUMENT)):
        node = DOCUMENT
        for name in ref.removeprefix("#/").split("/"):
            node = node[name]


@pytest.mark.parametrize("call", EXAMPLES, ids=lambda call: call.name)
def test_examples_are_what_the_call_takes_and_gives(call: Any) -> None:
    request, answer = (msgspec.to_builtins(each) for each in EXAMPLES[call])
    msgspec.convert(request, call.body)
    msgspec.convert(answer, call.answer)


async def test_it_is_served_with_a_page_that_needs_nothing_else(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/openapi.json") as response:
        assert await response.json() == DOCUMENT
    async with http.get("/docs") as response:
        assert response.content_type == "text/html"
        assert await response.text() == docs.page()


def test_the_page_has_every_call_and_loads_nothing() -> None:
    page = docs.page()
    assert all(f"<code>{call.path}</code>" in page for call in CALLS)
    assert "{{" not in page
    assert not re.search(r"(src|href)=.(https?:)?//", page)
