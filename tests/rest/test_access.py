"""Who may do what: every route, as everybody, in the right and in the wrong VCH."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import images
import pytest
import pytest_asyncio
import tlslab
from apart.cluster import TOPOLOGIES, Cluster, opened
from driver import Driver
from rest.known import HEADER, ByHeader
from rest.standins import World
from yarl import URL

from portlayer.compose import read_settings
from portlayer.model import errors as e
from portlayer.model.access import ROOT, Identity, Role, decide
from portlayer.model.caller import Caller
from portlayer.rest.calls import CALLS, Call
from portlayer.rest.passport import HEADER as PASSPORT
from portlayer.rest.passport import Passport
from portlayer.rest.server import Audit, Server, refusals
from portlayer.rest.server.doings import Doing

VARYING = {"Date", "Content-Length", "X-Request-ID"}
CANARY = "canary-7f3a"
KNOWN = {
    "root": ROOT,
    "viewer": Identity(subject="vera", role="viewer", vch="default"),
    "user": Identity(subject="ursula", role="user", vch="default"),
    "stranger": Identity(subject="sam", role="viewer", vch="other"),
    "strange user": Identity(subject="sue", role="user", vch="other"),
}
ROUTES = [pytest.param(call, id=call.name) for call in CALLS]
Answer = tuple[int, dict[str, str], bytes]


@asynccontextmanager
async def asking(cluster: Cluster, directory: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with a server that takes everyone's word for who they are."""
    server = Server(cluster.served, peers=ByHeader(KNOWN), audit=Audit(directory / "audit.log"))
    await server.listen_unix(directory / "s")
    connector = aiohttp.UnixConnector(str(directory / "s"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        yield session
    await server.drain(5)


@pytest.fixture
async def http(cluster: Cluster, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    async with asking(cluster, tmp_path) as session:
        yield session


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TOPOLOGIES)
async def furnished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[aiohttp.ClientSession]:
    """The same, with one of everything; for what changes none of it."""
    directory = tmp_path_factory.mktemp("pl")
    async with opened(request.param, directory) as cluster, asking(cluster, directory) as session:
        await run(session, cluster)
        yield session


async def ask(http: aiohttp.ClientSession, who: str, verb: str, path: str, body: Any = None, **headers: str) -> Answer:
    url = URL(path, encoded=True)
    async with http.request(verb, url, json=body, headers={HEADER: who, **headers}) as response:
        kept = {name: value for name, value in response.headers.items() if name not in VARYING}
        return response.status, kept, await response.read()


def filled(call: Call[Any, Any], vch: str, ref: str) -> str:
    """The path of *call* for a thing called *ref*."""
    values = {"vch": vch, **({"ref": vch} if call.tenant == "ref" else {})}
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], ref), call.path)


async def run(http: aiohttp.ClientSession, cluster: Cluster) -> str:
    """One of everything, called `thing`, with the canary in it; a handle of it."""
    v = "/v1/vchs/default"
    await Driver(cluster.served).image()
    await ask(http, "root", "POST", f"{v}/network/networks", {"name": "thing"})
    await ask(http, "root", "POST", f"{v}/storage/volumes", {"name": "thing"})
    async with http.put(f"{v}/kv/thing", data=CANARY.encode(), headers={HEADER: "root"}) as response:
        assert response.status == 204
    process = {"args": ["true"], "env": [f"PASSWORD={CANARY}"]}
    body = {"image": "busybox", "name": "thing", "process": process}
    status, _, answer = await ask(http, "root", "POST", f"{v}/execution/create", body)
    assert status == 200, answer
    status, _, done = await ask(http, "root", "POST", f"{v}/execution/commit", {"handle": json.loads(answer)["handle"]})
    assert status == 200, done
    status, _, again = await ask(http, "root", "POST", f"{v}/execution/containers/thing/handle")
    assert status == 200, again
    return str(json.loads(again)["handle"])


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("call", ROUTES)
async def test_no_route_tells_the_unknown_the_low_or_the_stranger_what_there_is(
    call: Call[Any, Any], furnished: aiohttp.ClientSession
) -> None:
    http = furnished
    tried = 0
    for who in ("nobody", "viewer", "user", "stranger", "strange user"):
        identity = KNOWN.get(who)
        try:
            decide(identity, call.role, "default" if call.tenant else None)
        except e.PortlayerError as refusal:
            expected = type(refusal)
        else:
            continue
        tried += 1
        there = await ask(http, who, call.verb, filled(call, "default", "thing"))
        absent = await ask(http, who, call.verb, filled(call, "default", "absent"))
        assert there == absent
        assert json.loads(there[2])["code"] == expected.__name__
        assert there[0] == {"Unauthenticated": 401, "NotFound": 404, "PermissionDenied": 403}[expected.__name__]
        assert ("WWW-Authenticate" in there[1]) == (there[0] == 401)
        if expected is e.NotFound:
            status, headers, body = await ask(http, who, call.verb, filled(call, "default-not", "thing"))
            assert (status, headers, body.replace(b"default-not", b"default")) == there
    assert tried >= (0 if call.role == "anyone" else 1)


def test_every_route_needs_what_it_should() -> None:
    open_to_anyone = {call.name for call in CALLS if call.role == "anyone"}
    assert open_to_anyone == {"service/health", "service/openapi", "service/docs"}
    for call in CALLS:
        if call.role == "viewer":
            assert call.verb == "GET", call.name
        if call.verb != "GET":
            assert call.role == ("user" if "vch" in call.parameters else "operator"), call.name
    roles = {call.name: call.role for call in CALLS}
    assert roles["interaction/attach"] == roles["service/get-kv"] == "user"
    assert roles["service/metrics"] == roles["service/list-vchs"] == "operator"
    assert roles["service/get-vch"] == roles["service/info"] == roles["service/ready"] == "viewer"


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("viewer", {"viewer"}), ("user", {"viewer", "user"}), ("operator", {"viewer", "user", "operator"})],
)
def test_a_role_has_what_lower_ones_have(role: Role, allowed: set[Role]) -> None:
    vch = None if role == "operator" else "a"
    roles: tuple[Role, ...] = ("viewer", "user", "operator")
    for needed in roles:
        try:
            decide(Identity(subject="x", role=role, vch=vch), needed, "a")
        except e.PermissionDenied:
            assert needed not in allowed
        else:
            assert needed in allowed


async def test_a_leaked_handle_is_worth_as_much_as_garbage(http: aiohttp.ClientSession, cluster: Cluster) -> None:
    handle = await run(http, cluster)
    theirs = await ask(http, "strange user", "POST", "/v1/vchs/default/execution/inspect", {"handle": handle})
    garbage = await ask(http, "strange user", "POST", "/v1/vchs/default/execution/inspect", {"handle": "garbage"})
    own = await ask(http, "strange user", "POST", "/v1/vchs/other/execution/inspect", {"handle": handle})
    assert theirs == garbage
    assert theirs[0] == 404
    assert own[0] in (404, 410)
    assert (await ask(http, "user", "POST", "/v1/vchs/default/execution/inspect", {"handle": handle}))[0] == 200


async def test_a_viewer_sees_which_variables_there_are_and_a_user_their_values(
    http: aiohttp.ClientSession, cluster: Cluster
) -> None:
    await run(http, cluster)
    built = images.Built([images.tar([images.file("f")])], "baked:latest", {"Env": [f"PASSWORD={CANARY}"]})
    await Driver(cluster.served).archive(images.oci_archive(built))
    for shows in ("execution/containers/thing", "execution/containers", "storage/images/baked", "storage/images"):
        path = f"/v1/vchs/default/{shows}"
        _, _, seen = await ask(http, "viewer", "GET", path)
        assert b"PASSWORD=***" in seen
        assert CANARY.encode() not in seen
        _, _, whole = await ask(http, "user", "GET", path)
        assert f"PASSWORD={CANARY}".encode() in whole


async def test_secrets_are_in_no_log_and_no_audit(
    http: aiohttp.ClientSession, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "portlayer")
    await run(http, cluster)
    await ask(http, "viewer", "GET", f"/v1/vchs/default/execution/containers?label=a={CANARY}")
    await ask(http, "stranger", "GET", f"/v1/vchs/default/execution/containers?label=a={CANARY}")
    told = [str(vars(record)) for record in caplog.records if record.name.startswith("portlayer")]
    assert told
    assert CANARY not in "".join(told)
    audit = (tmp_path / "audit.log").read_text()
    assert "execution/commit" in audit
    assert CANARY not in audit


async def test_a_token_that_is_named_by_its_secret_is_in_no_log(
    http: aiohttp.ClientSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "portlayer")
    wanted = {"subject": "vera", "role": "viewer", "vch": "default"}
    _, _, made = await ask(http, "root", "POST", "/v1/tokens", wanted)
    secret = json.loads(made)["secret"]
    for who in ("root", "nobody"):
        for path in (f"/v1/tokens/{secret}", f"/v1/vchs/{secret}"):
            status, _, _ = await ask(http, who, "DELETE", path)
            assert status in (401, 404)
    await ask(http, "root", "DELETE", f"/v1/tokens/{secret}")
    told = (tmp_path / "audit.log").read_text() + "".join(str(vars(record)) for record in caplog.records)
    assert told.count(f"/v1/tokens/plt_{json.loads(made)['token']['id']}_***") >= 3
    assert secret[-43:] not in told


async def test_the_audit_log_has_changes_and_refusals_and_no_looking(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    v = "/v1/vchs/default"
    await ask(http, "user", "GET", f"{v}/network/networks")
    await ask(http, "user", "POST", f"{v}/network/networks?x=1", {"name": "n"})
    await ask(http, "user", "POST", f"{v}/network/networks", {"name": "n"})
    await ask(http, "user", "POST", f"{v}/network/networks", {"name": "n"})
    await ask(http, "viewer", "POST", f"{v}/network/networks", {"name": "m"})
    await ask(http, "stranger", "GET", f"{v}/network/networks")
    await ask(http, "nobody", "GET", f"{v}/network/networks")
    path = tmp_path / "audit.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["subject"], line["role"], line["status"], line["code"]) for line in lines] == [
        ("ursula", "user", 201, None),
        ("ursula", "user", 409, "AlreadyExists"),
        ("vera", "viewer", 403, "PermissionDenied"),
        ("sam", "viewer", 404, "NotFound"),
        (None, None, 401, "Unauthenticated"),
    ]
    assert {(line["vch"], line["target"]) for line in lines} == {("default", f"{v}/network/networks")}


async def test_the_audit_log_says_what_was_changed(
    http: aiohttp.ClientSession, cluster: Cluster, tmp_path: Path
) -> None:
    await run(http, cluster)
    v = "/v1/vchs/default"
    wanted = {"image": "busybox", "process": {"args": ["true"]}, "host": cluster.topology.parts[0].host}
    steps = [{"call": "execution/create", **wanted, "name": name} for name in ("one", "two")]
    composed = [
        json.loads((await ask(http, "user", "POST", f"{v}/execution/compose", {"steps": [step]}))[2]) for step in steps
    ]
    done = {"handles": [each["handle"] for each in composed]}
    both = json.loads((await ask(http, "user", "POST", f"{v}/execution/commit", done))[2])["containers"]
    commit = {"steps": [{**steps[0], "name": "three"}, {"call": "execution/commit"}]}
    third = json.loads((await ask(http, "user", "POST", f"{v}/execution/compose", commit))[2])["answers"][-1]
    network = json.loads((await ask(http, "user", "POST", f"{v}/network/networks", {"name": "n"}))[2])
    token = json.loads((await ask(http, "root", "POST", "/v1/tokens", {"subject": "o", "role": "operator"}))[2])
    await ask(http, "user", "POST", f"{v}/execution/containers/one/handle")
    await ask(http, "user", "DELETE", f"{v}/execution/containers/two")
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    told = [line["ids"] for line in lines if line["ids"] or "two" in line["target"]][-5:]
    assert told == [[one["id"] for one in both], [third["id"]], [network["id"]], [token["token"]["id"]], []]


async def test_an_answer_and_its_line_in_the_audit_log_have_one_id(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    ids = []
    for who, sent in (("user", "mine-1"), ("user", ""), ("user", "not fit"), ("nobody", "mine-2"), ("user", "x" * 65)):
        headers = {HEADER: who, **({"X-Request-ID": sent} if sent else {})}
        async with http.post("/v1/vchs/default/network/networks", json={"name": "n"}, headers=headers) as response:
            ids.append(response.headers["X-Request-ID"])
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert [line["request"] for line in lines] == ids
    assert (ids[0], ids[3]) == ("mine-1", "mine-2")
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{16}", ids[place]) for place in (1, 2, 4))


def test_the_audit_log_is_bounded(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.log", most=1000)

    async def tell() -> None:
        for number in range(200):
            audit.tell(ROOT, "default", "execution/commit", f"/{number}", Doing(200))
            await asyncio.sleep(0)

    asyncio.run(tell())
    audit.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"audit.log", "audit.log.1", "audit.log.2", "audit.log.3"}
    assert max(sizes.values()) <= 1000
    assert '"/199"' in (tmp_path / "audit.log").read_text()


def noted(directory: Path) -> list[dict[str, Any]]:
    """What the audit log has, in its files."""
    files = sorted(directory.glob("audit.log*"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


async def test_how_often_one_was_refused_is_told_before_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "SUM_SECONDS", 0.01)
    monkeypatch.setattr(refusals, "BURST", 2)
    audit = Audit(tmp_path / "audit.log")
    for number in range(5):
        for identity in (None, KNOWN["viewer"]):
            doing = Doing(403, "PermissionDenied")
            audit.refuse(identity, "default", "execution/commit", f"/{number}", doing, request=None)
    async with asyncio.timeout(20):
        while len(noted(tmp_path)) < 6:
            await asyncio.sleep(0.01)
    sums = [(line["subject"], line["refusals"]) for line in noted(tmp_path) if "refusals" in line]
    assert sums == [(None, 3), ("vera", 3)]
    audit.close()


async def test_who_is_refused_again_and_again_drives_nobody_out_of_the_audit_log(world: World, tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.log", most=30_000)
    server = Server(world.components, peers=ByHeader(KNOWN), audit=audit)
    await server.listen_unix(tmp_path / "s")
    target = "/v1/vchs/default/network/networks"
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as http:
        await ask(http, "user", "POST", target, {"name": "n"})
        for number in range(400):
            assert (await ask(http, "nobody", "GET", f"/v1/vchs/v{number}/network/networks"))[0] == 401
        assert (await ask(http, "stranger", "GET", target))[0] == 404
    await server.drain(5)
    lines = noted(tmp_path)
    assert [line["subject"] for line in lines if "target" in line and line["subject"]].count("ursula") == 1
    assert sum(line["subject"] == "sam" for line in lines) == 1
    whole = sum(line.get("status") == 401 for line in lines)
    (told,) = [line for line in lines if "refusals" in line]
    assert (told["subject"], whole + told["refusals"]) == (None, 400)
    assert 100 <= whole <= 102
    assert told["since"] < told["time"]


async def test_a_forged_word_of_a_process_is_in_the_audit_log(world: World, tmp_path: Path) -> None:
    server = Server(world.components, world.components, Passport(b"k" * 32), audit=Audit(tmp_path / "audit.log"))
    await server.listen_unix(tmp_path / "s")
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    async with (
        aiohttp.ClientSession("http://localhost", connector=connector) as session,
        session.get("/v1/vchs/a/network/networks", headers={PASSPORT: "forged.forged"}) as response,
    ):
        assert response.status == 401
    await server.drain(5)
    (line,) = noted(tmp_path)
    assert (line["subject"], line["status"], line["vch"], line["call"]) == (None, 401, "a", "network/list-networks")


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users reach."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


async def status_as(uid: int, path: Path, target: str) -> int:
    """The status of a GET whose connection *uid* has opened: the kernel notes who connects."""
    connector = aiohttp.UnixConnector(str(path))
    os.seteuid(uid)
    try:
        async with (
            aiohttp.ClientSession("http://localhost", connector=connector) as session,
            session.get(target) as response,
        ):
            return response.status
    finally:
        os.seteuid(0)


async def test_the_kernel_says_who_is_at_a_unix_socket(world: World, reachable: Path) -> None:
    server = Server(world.components, users={4711: Identity(subject="v", role="viewer", vch="a")})
    await server.listen_unix(reachable / "s", mode=0o666)
    path = reachable / "s"
    assert await status_as(0, path, "/v1/vchs") == 200
    assert await status_as(4711, path, "/v1/vchs/a/network/networks") == 200
    assert await status_as(4711, path, "/v1/vchs/b/network/networks") == 404
    assert await status_as(4711, path, "/v1/vchs") == 403
    assert await status_as(4712, path, "/v1/vchs/a/network/networks") == 401
    assert await status_as(4712, path, "/healthz") == 200
    await server.drain(5)


def tls_session(port: int) -> aiohttp.ClientSession:
    """A client without a certificate."""
    connector = aiohttp.TCPConnector(ssl=tlslab.calling()())
    return aiohttp.ClientSession(f"https://127.0.0.1:{port}", connector=connector)


async def test_nobody_is_known_over_tcp(world: World) -> None:
    server = Server(world.components)
    port = await server.listen_tls("127.0.0.1", 0, tlslab.serving())
    async with tls_session(port) as session:
        for target, status in (("/healthz", 200), ("/v1/info", 401), ("/v1/vchs/default/network/networks", 401)):
            async with session.get(target) as response:
                assert response.status == status
    await server.drain(5)


async def test_another_process_of_ours_is_believed_and_not_asked_again(world: World, tmp_path: Path) -> None:
    passport = Passport(b"k" * 32)
    server = Server(world.components, world.components, passport)
    await server.listen_unix(tmp_path / "s")
    caller = Caller(vch="a", subject="ursula", role="user")
    target = "/v1/vchs/a/network/networks"
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        async with session.get(target, headers={PASSPORT: passport.sign(caller, "GET", target)}) as response:
            assert response.status == 200
        for other in (
            "forged.forged",
            passport.sign(caller, "DELETE", target),
            passport.sign(caller, "GET", "/v1/vchs"),
        ):
            async with session.get(target, headers={PASSPORT: other}) as response:
                assert response.status == 401, "it is for one request"
    assert [asked[1] for asked in world.network.asked] == [caller]
    await server.drain(5)


def test_users_come_from_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[users.1000]\nrole = "user"\nvch = "a"\n[users.1001]\nrole = "operator"\nsubject = "olga"\n')
    assert read_settings({}, file).users == {
        1000: Identity(subject="uid:1000", role="user", vch="a"),
        1001: Identity(subject="olga", role="operator"),
    }


@pytest.mark.parametrize(
    "text",
    [
        '[users.x]\nrole = "operator"',
        '[users.0]\nrole = "viewer"\nvch = "a"',
        '[users.1]\nrole = "king"',
        '[users.1]\nrole = "user"',
        '[users.1]\nrole = "operator"\nvch = "a"',
        '[users.1]\nrole = "user"\nvch = "a"\nmore = 1',
        "users = 1",
    ],
)
def test_users_that_make_no_sense_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(e.InvalidArgument, match="users"):
        read_settings({}, file)
