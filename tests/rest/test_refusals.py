"""Whatever is wrong with a request, the answer is a problem document that says what, where, and what next."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from rest.standins import World

from portlayer.model.errors import Unavailable
from portlayer.rest import problems
from portlayer.rest.calls import CALLS
from portlayer.rest.server.content import MAX_BODY

V = "/v1/vchs/default"
CREATE = f"{V}/execution/create"
LIST = f"{V}/execution/containers"


async def problem(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The document in *response*, which must be one."""
    assert response.content_type == problems.PROBLEM
    document: dict[str, Any] = await response.json()
    assert msgspec.convert(document, problems.Problem).status == response.status
    return document


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{", None),
        (b"", None),
        (b'{"image": "\xff"}', None),
        (b'{"image": "\\ud800"}', None),
        (b"[" * 100_000, None),
        (b"[]", None),
        (b"{}", "/image"),
        (b'{"image": 1}', "/image"),
        (b'{"image": "x", "colour": "red"}', "/colour"),
        (b'{"image": "x", "process": {"env": ["a", 1]}}', "/process/env/1"),
        (b'{"image": "x", "process": {"a/b~": 1}}', "/process/a~1b~0"),
        (b'{"image": "x", "labels": {"a": 1}}', "/labels"),
        (b'{"image": "x", "resources": {"cpus": 1e999}}', "/resources/cpus"),
        (b'{"image": "x", "restartPolicy": {"name": "maybe"}}', "/restartPolicy/name"),
    ],
)
async def test_a_wrong_body_is_refused_with_a_pointer(
    http: aiohttp.ClientSession, body: bytes, pointer: str | None
) -> None:
    async with http.post(CREATE, data=body, headers={"Content-Type": "application/json"}) as response:
        document = await problem(response)
    assert (document["code"], document["status"], document.get("pointer")) == ("InvalidArgument", 400, pointer)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("colour=red", "?colour"),
        ("limit=x", "?limit"),
        ("limit=1&limit=2", "?limit"),
        ("limit=1.5", "?limit"),
        ("limit=" + "9" * 5000, "?limit"),
        ("state=asleep", "?state"),
        ("name=%ff", None),
        ("&".join(["label=a"] * 200), None),
    ],
)
async def test_a_wrong_query_is_refused(http: aiohttp.ClientSession, query: str, pointer: str | None) -> None:
    async with http.get(aiohttp.client.URL(f"{LIST}?{query}", encoded=True)) as response:
        document = await problem(response)
    assert (document["code"], document["status"], document.get("pointer")) == ("InvalidArgument", 400, pointer)


@pytest.mark.parametrize("value", ["yes", "", "TRUE", "2"])
async def test_only_true_and_false_are_booleans(http: aiohttp.ClientSession, value: str) -> None:
    async with http.delete(f"{LIST}/x?force={value}") as response:
        assert (await problem(response))["pointer"] == "?force"


@pytest.mark.parametrize(("value", "meant"), [("true", True), ("1", True), ("false", False), ("0", False)])
async def test_booleans_come_in_two_spellings(
    http: aiohttp.ClientSession, world: World, value: str, meant: bool
) -> None:
    async with http.delete(f"{LIST}/x?force={value}") as response:
        assert response.status == 204
    assert world.execution.asked[0][2].force is meant


async def test_a_json_call_takes_no_query(http: aiohttp.ClientSession) -> None:
    async with http.post(f"{CREATE}?image=x", json={"image": "x"}) as response:
        assert (await problem(response))["pointer"] == "?image"


async def test_a_get_takes_no_body(http: aiohttp.ClientSession) -> None:
    async with http.get(LIST, data=b"{}") as response:
        assert (await problem(response))["code"] == "InvalidArgument"


async def test_an_unknown_route_is_not_found(http: aiohttp.ClientSession) -> None:
    for path in ("/", "/v2/info", f"{V}/execution/containers/", f"{V}/execution/containers/a/b/c", "/%ff"):
        async with http.get(aiohttp.client.URL(path, encoded=True)) as response:
            document = await problem(response)
        assert (document["status"], document["code"], document["kind"]) == (404, "NotFound", "route")


async def test_a_path_that_is_not_utf8_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.get(aiohttp.client.URL(f"{LIST}/%ff", encoded=True)) as response:
        assert (await problem(response))["status"] == 400


async def test_a_wrong_method_names_the_right_ones(http: aiohttp.ClientSession) -> None:
    async with http.put(LIST) as response:
        assert ((await problem(response))["status"], response.headers["Allow"]) == (405, "GET")
    async with http.head(f"{V}/events") as response:
        assert response.status == 405


async def test_head_answers_as_get_without_a_body(http: aiohttp.ClientSession) -> None:
    async with http.head("/v1/info") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_body_that_is_not_json_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.post(CREATE, data={"image": "x"}) as response:
        assert (await problem(response))["status"] == 415
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with http.post(CREATE, data=b"x", headers=headers) as response:
        assert (await problem(response))["status"] == 415


async def test_json_with_a_charset_or_without_a_type_is_taken(http: aiohttp.ClientSession) -> None:
    for headers in ({"Content-Type": "application/json; charset=utf-8"}, {}):
        skip = [] if headers else ["Content-Type"]
        async with http.post(CREATE, data=b'{"image":"x"}', headers=headers, skip_auto_headers=skip) as response:
            assert response.status == 200


async def test_a_body_over_the_limit_is_refused(http: aiohttp.ClientSession) -> None:
    async def endless() -> Any:
        for _ in range(MAX_BODY // 65536 + 2):
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    for data in (io.BytesIO(b" " * (MAX_BODY + 1)), endless()):
        async with http.post(CREATE, data=data, headers=headers) as response:
            document = await problem(response)
        assert (document["status"], document["code"]) == (413, "InvalidArgument")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "ä"])
async def test_an_idempotency_key_is_short_and_printable(http: aiohttp.ClientSession, key: str) -> None:
    async with http.post(f"{V}/storage/volumes", json={}, headers={"Idempotency-Key": key}) as response:
        assert (await problem(response))["code"] == "InvalidArgument"


@pytest.mark.parametrize("tag", ["12", 'W/"12"', '"1", "2"', ""])
async def test_if_match_is_one_entity_tag(http: aiohttp.ClientSession, tag: str) -> None:
    async with http.put(f"{V}/kv/k", data=b"v", headers={"If-Match": tag}) as response:
        assert (await problem(response))["code"] == "InvalidArgument"


@pytest.mark.parametrize(
    ("verb", "path", "header"),
    [
        ("PUT", f"{V}/kv/k", "If-None-Match"),
        ("DELETE", f"{V}/execution/containers/c", "If-Match"),
    ],
)
async def test_a_condition_that_is_not_looked_at_is_refused(
    http: aiohttp.ClientSession, world: World, verb: str, path: str, header: str
) -> None:
    async with http.request(verb, path, headers={header: "*"}) as response:
        assert response.status == 501
        assert (await problem(response))["option"] == header
    assert not world.service.asked
    assert not world.execution.asked


@pytest.mark.parametrize("call", [call for call in CALLS if call.unsupported], ids=lambda call: call.name)
async def test_what_is_not_offered_says_so(http: aiohttp.ClientSession, call: Any) -> None:
    path = call.path.format(**dict.fromkeys(call.parameters, "x"))
    async with http.request(call.verb, path, json={"anything": 1} if call.verb == "POST" else None) as response:
        assert (await problem(response))["code"] == "Unsupported"


async def test_a_fault_of_ours_tells_nothing_and_is_logged(
    http: aiohttp.ClientSession, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.answer("execution", "create", ZeroDivisionError("secret"))
    async with http.post(CREATE, json={"image": "x"}) as response:
        document = await problem(response)
    assert (document["status"], document["code"]) == (500, "Internal")
    assert "secret" not in str(document)
    assert "ZeroDivisionError: secret" in caplog.text


async def test_retry_after_is_a_header_too(http: aiohttp.ClientSession, world: World) -> None:
    world.answer("execution", "create", Unavailable("Later.", retry_after_seconds=1.2))
    async with http.post(CREATE, json={"image": "x"}) as response:
        assert (await problem(response))["retryAfterSeconds"] == 1.2
        assert response.headers["Retry-After"] == "2"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nBroken\r\n\r\n",
        b"GET /v1/vchs/\xc3\xa4/events HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/vchs/default/execution/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_gets_a_problem_too(server: Any, tmp_path: Path, request_bytes: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(request_bytes)
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert problems.PROBLEM.encode() in answer


async def test_a_body_is_asked_for_only_when_it_is_wanted(server: Any, tmp_path: Path) -> None:
    head = b"Host: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(b"POST /v1/nowhere HTTP/1.1\r\n" + head)
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")
    writer.close()

    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(f"POST {CREATE} HTTP/1.1\r\n".encode() + head)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b'{"image":"x"}')
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
