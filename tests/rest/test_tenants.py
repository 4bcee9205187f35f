"""Tenants over REST: the calls themselves, and every other route with what belongs to another tenant."""

from __future__ import annotations

import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import images
import pytest
from apart.cluster import Cluster
from builders import layer
from yarl import URL

from portlayer.rest.calls import CALLS, Call, Place

UNKNOWN = {"id": "0" * 31 + "1", "image": "0" * 63 + "1", "name": "nowhere"}
OWN_TENANT = [call for call in CALLS if "vch" in call.parameters and not call.unsupported]


@pytest.fixture
async def rest(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    """The whole thing on the memory substrate, behind the socket of the process that callers reach."""
    connector = aiohttp.UnixConnector(cluster.address(cluster.doors[0]).removeprefix("unix://"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        yield session


async def ask(rest: aiohttp.ClientSession, verb: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = io.BytesIO(body) if isinstance(body, bytes) else None
    sent = None if data is not None else body
    async with rest.request(verb, URL(path, encoded=True), json=sent, data=data, headers=headers) as response:
        content = await response.read()
        return response.status, json.loads(content) if content else None


async def ok(rest: aiohttp.ClientSession, verb: str, path: str, body: Any = None) -> Any:
    status, answer = await ask(rest, verb, path, body)
    assert status < 300, answer
    return answer


async def furnish(rest: aiohttp.ClientSession, vch: str, name: str) -> dict[str, str]:
    """One of everything in *vch*, all called *name*; their ids."""
    v = f"/v1/vchs/{vch}"
    layers = [layer()[1], images.tar([images.file(name)])]
    archive = images.oci_archive(images.Built(layers, f"{name}:latest", {"Cmd": ["sleep"]}))
    image = await ok(rest, "POST", f"{v}/storage/images/import", archive)
    network = await ok(rest, "POST", f"{v}/network/networks", {"name": name})
    volume = await ok(rest, "POST", f"{v}/storage/volumes", {"name": name})
    process = {"args": ["sleep", "1000"]}
    created = await ok(rest, "POST", f"{v}/execution/create", {"image": name, "name": name, "process": process})
    joined = await ok(rest, "POST", f"{v}/network/join", {"handle": created["handle"], "network": name})
    bound = await ok(rest, "POST", f"{v}/network/bind", {"handle": joined["handle"]})
    await ok(rest, "POST", f"{v}/execution/commit", {"handle": bound["handle"]})
    await ok(rest, "PUT", f"{v}/kv/{name}", b"value")
    draft = await ok(rest, "POST", f"{v}/execution/create", {"image": name, "process": process})
    pin = await ok(rest, "POST", f"{v}/network/networks/{name}/handle")
    return {
        "container": created["id"],
        "network": network["id"],
        "volume": volume["id"],
        "image": image["images"][0]["id"],
        "handle": draft["handle"],
        "pin": pin["handle"],
        "name": name,
    }


def kind_of(call: Call[Any, Any]) -> str:
    """What `{ref}` of a call is."""
    found = re.search(r"/(image|volume|network|container)s/\{ref\}", call.path)
    return found[1] if found else ""


def probes(call: Call[Any, Any], theirs: dict[str, str]) -> list[tuple[str, Any, str]]:
    """Requests of *call* that name something: path, body, and what of it is named. A `{}` stands for that."""
    path = call.path.replace("{vch}", "right")
    if "{ref}" in path:
        path = re.sub(r"\{(?!ref)\w+\}", "main", path).replace("{ref}", "{}")
        body = (
            {"signal": "SIGTERM", "width": 1, "height": 1, "name": "x"} if call.consumes == "application/json" else None
        )
        wanted = {info.encode_name for info in call.at(Place.BODY)}
        body = None if body is None else {name: value for name, value in body.items() if name in wanted}
        return [(path, body, kind_of(call)), (path, body, "name")]
    if "{key}" in path and call.verb != "PUT":  # which makes one's own
        return [(path.replace("{key}", "{}"), None, "name")]
    return []


@pytest.fixture
async def theirs(rest: aiohttp.ClientSession) -> dict[str, str]:
    """What the VCH left has; right has other things."""
    for vch in ("left", "right"):
        await ok(rest, "POST", "/v1/vchs", {"name": vch})
    await furnish(rest, "right", "mine")
    return await furnish(rest, "left", "theirs")


def plain(answer: tuple[int, Any], named: str) -> str:
    """An answer, without what was named."""
    return json.dumps(answer, sort_keys=True).replace(named, "…")


async def test_every_route_answers_for_anothers_as_for_what_is_nowhere(
    rest: aiohttp.ClientSession, theirs: dict[str, str]
) -> None:
    walked = set()
    for call in OWN_TENANT:
        for path, body, kind in probes(call, theirs):
            known = theirs[kind]
            unknown = UNKNOWN.get(kind, UNKNOWN["id"])
            foreign = await ask(rest, call.verb, path.format(known), body)
            nowhere = await ask(rest, call.verb, path.format(unknown), body)
            assert foreign[0] >= 400, (call.name, kind, foreign)
            assert plain(foreign, known) == plain(nowhere, unknown), (call.name, kind)
            walked.add(call.path)
    assert walked >= {call.path for call in OWN_TENANT if "{ref}" in call.path or "{key}" in call.path}


async def test_every_mutation_refuses_anothers_handle_as_none(
    rest: aiohttp.ClientSession, theirs: dict[str, str]
) -> None:
    fillers = {
        "state": "running",
        "labels": {},
        "resources": {},
        "restartPolicy": {"name": "no"},
        "name": "x",
        "volume": "mine",
        "destination": "/x",
        "network": "mine",
    }
    walked = 0
    for call in OWN_TENANT:
        fields = {info.encode_name: info for info in call.fields.values()}
        if "handle" not in fields:
            continue
        body = {name: fillers[name] for name, info in fields.items() if name in fillers and name != "handle"}
        if call.name == "storage/leave":
            body.pop("destination")
        path = call.path.replace("{vch}", "right")
        foreign = await ask(rest, call.verb, path, {**body, "handle": theirs["handle"]})
        nonsense = await ask(rest, call.verb, path, {**body, "handle": "nonsense"})
        assert foreign == nonsense, call.name
        assert foreign[0] == 410, (call.name, foreign)
        walked += 1
    assert walked > 10


async def test_every_body_that_names_something_finds_only_its_own(
    rest: aiohttp.ClientSession, theirs: dict[str, str]
) -> None:
    v = "/v1/vchs/right"
    draft = (await ok(rest, "POST", f"{v}/execution/create", {"image": "mine"}))["handle"]
    bodies = [
        ("execution/create", {"image": "{}"}, ("image", "name")),
        ("storage/join", {"handle": draft, "volume": "{}", "destination": "/x"}, ("volume", "name")),
        ("storage/leave", {"handle": draft, "volume": "{}"}, ("volume", "name")),
        ("network/join", {"handle": draft, "network": "{}"}, ("network", "name")),
        ("network/leave", {"handle": draft, "network": "{}"}, ("network", "name")),
        ("network/bind", {"handle": draft, "network": "{}"}, ("network", "name")),
        ("network/unbind", {"handle": draft, "network": "{}"}, ("network", "name")),
    ]
    for verb, body, kinds in bodies:
        for kind in kinds:
            answers = []
            for named in (theirs[kind], UNKNOWN.get(kind, UNKNOWN["id"])):
                filled = {name: named if value == "{}" else value for name, value in body.items()}
                answers.append(plain(await ask(rest, "POST", f"{v}/{verb}", filled), named))
            assert answers[0] == answers[1], verb
            assert "NotFound" in answers[0]
    pinned = await ask(rest, "POST", f"{v}/network/join", {"handle": draft, "network": theirs["pin"]})
    assert pinned[0] == 410


async def test_lists_and_events_have_only_ones_own(rest: aiohttp.ClientSession, theirs: dict[str, str]) -> None:
    for call in OWN_TENANT:
        if call.verb == "GET" and "{" not in call.path.replace("{vch}", "") and not call.streams:
            text = json.dumps(await ask(rest, "GET", call.path.replace("{vch}", "right")))
            assert not any(value in text for value in theirs.values()), call.name
    async with rest.get("/v1/vchs/right/events?since=0") as response:
        seen = ""
        while "container.created" not in seen:
            seen += (await response.content.readline()).decode()
    assert not any(value in seen for value in theirs.values())


async def test_the_calls_of_tenants(rest: aiohttp.ClientSession) -> None:
    body = {"name": "tenant", "quota": {"containers": 2, "memoryBytes": 1 << 30}}
    status, made = await ask(rest, "POST", "/v1/vchs", body, **{"Idempotency-Key": "k"})
    assert status == 201
    assert await ask(rest, "POST", "/v1/vchs", body, **{"Idempotency-Key": "k"}) == (201, made)
    assert made["quota"] == {"containers": 2, "memoryBytes": 1 << 30}
    assert made["usage"]["containers"] == 0
    assert (await ask(rest, "POST", "/v1/vchs", body))[1]["code"] == "AlreadyExists"
    async with rest.get("/v1/vchs/tenant") as response:
        etag = response.headers["ETag"]
    change = {"quota": {"containers": None, "networks": 1}}
    status, changed = await ask(rest, "PATCH", "/v1/vchs/tenant", change, **{"If-Match": etag})
    assert (status, changed["quota"]) == (200, {"memoryBytes": 1 << 30, "networks": 1})
    status, problem = await ask(rest, "PATCH", "/v1/vchs/tenant", change, **{"If-Match": etag})
    assert (status, problem["collisions"]) == (409, ["etag"])
    assert (await ask(rest, "PATCH", "/v1/vchs/tenant", {"quota": {"volumes": 1}}))[0] == 400
    await ok(rest, "POST", "/v1/vchs/tenant/network/networks", {"name": "one"})
    status, problem = await ask(rest, "POST", "/v1/vchs/tenant/network/networks", {"name": "two"})
    assert (status, problem["code"]) == (429, "ResourceExhausted")
    assert (problem["resource"], problem["limit"], problem["used"], problem["requested"]) == ("networks", 1, 1, 1)
    status, problem = await ask(rest, "DELETE", "/v1/vchs/tenant")
    assert (status, problem["code"], problem["users"]) == (423, "InUse", ["1 networks"])
    assert await ask(rest, "DELETE", "/v1/vchs/tenant?force=true") == (204, None)
    assert (await ask(rest, "GET", "/v1/vchs/tenant"))[0] == 404
    assert (await ask(rest, "DELETE", "/v1/vchs/default?force=true"))[0] == 400


async def test_events_end_with_their_vch(rest: aiohttp.ClientSession) -> None:
    await ok(rest, "POST", "/v1/vchs", {"name": "tenant"})
    async with rest.get("/v1/vchs/tenant/events?since=0") as response:
        await ok(rest, "PATCH", "/v1/vchs/tenant", {"quota": {"containers": 1}})
        await ok(rest, "DELETE", "/v1/vchs/tenant")
        text = (await response.read()).decode()
    told = re.findall(r"^event: (.*)$", text, re.MULTILINE)
    assert told == ["vch.created", "vch.updated", "vch.deleting", "vch.removed"]
