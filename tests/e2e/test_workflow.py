"""The contract, call by call and field by field, on real containers, with nothing of ours between test and server."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import images
import pytest
from e2e.conftest import SERVED, Served
from e2e.raw import Api, api, url

from portlayer.client import connect_sync

PROTOCOL = "portlayer.attach.v1"
_TRIES = 1000


@pytest.fixture(scope="module", params=SERVED)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, archive: bytes
) -> Iterator[Served]:
    """One for all tests here, each with names of its own."""
    served = SERVED[request.param](tmp_path_factory.mktemp("pl"))
    try:
        served.serve()
        with connect_sync(host=served.host) as pl:
            pl.storage.import_image(archive)
        yield served
        assert served.end() == 0
    finally:
        served.close()


@pytest.fixture
async def call(server: Served) -> AsyncIterator[Api]:
    async with api(server.directory, server.socket) as call:
        call.before_commit = server.move
        yield call


async def create(call: Api, name: str, *args: str, **fields: Any) -> str:
    """A handle to a new container."""
    body = {"image": "busybox", "name": name, "process": {"args": args}, **fields}
    return str((await call.ok("POST", "execution/create", body))["handle"])


async def run(call: Api, name: str, *args: str, **fields: Any) -> dict[str, Any]:
    """A container that was created and started; the answer of its commit."""
    handle = await create(call, name, *args, **fields)
    handle = (await call.ok("POST", "execution/set-state", {"handle": handle, "state": "running"}))["handle"]
    committed: dict[str, Any] = (await call.ok("POST", "execution/commit", {"handle": handle})).json
    return committed


async def test_the_seeds_workflow(call: Api) -> None:
    made = await call("POST", "network/networks", {"name": "gibson_network", "type": "bridge"})
    assert made.status == 201
    assert {"id", "name", "type", "subnets"} <= made.json.keys()
    args = ["sh", "-c", "hostname -i; exec sleep 1000"]
    created = await call(
        "POST", "execution/create", {"image": "busybox", "name": "cookie_monster", "process": {"args": args}}
    )
    assert created.status in (200, 201)
    assert {"handle", "id"} <= created.json.keys()
    assert (await call("GET", "execution/containers/cookie_monster")).status == 404
    committed = await call("POST", "execution/commit", {"handle": created["handle"]})
    assert committed.status == 200
    assert (committed["id"], committed["state"], committed["endpoints"]) == (created["id"], "created", [])
    assert "handle" not in committed.json

    held = await call("POST", "execution/containers/cookie_monster/handle")
    assert (held.status, held["id"], held["revision"]) == (200, created["id"], committed["revision"])
    network = await call("POST", "network/networks/gibson_network/handle")
    assert network.status == 200
    joined = await call("POST", "network/join", {"handle": held["handle"], "network": network["handle"]})
    assert joined.status == 200
    bound = await call("POST", "network/bind", {"handle": joined["handle"]})
    (endpoint,) = bound["endpoints"]
    assert endpoint["id"] == joined["endpointId"]
    assert len({held["handle"], joined["handle"], bound["handle"]}) == 3
    running = await call("POST", "execution/set-state", {"handle": bound["handle"], "state": "running"})
    looked = await call("POST", "execution/inspect", {"handle": running["handle"]})
    assert looked["base"] == committed["revision"]
    assert looked["current"]["endpoints"] == []
    assert [one["address"] for one in looked["proposed"]["endpoints"]] == [endpoint["address"]]
    assert len(looked["changes"]) == 3
    answer = await call("POST", "execution/commit", {"handle": running["handle"]})
    assert (answer.status, answer["state"]) == (200, "running")
    assert answer["revision"] > committed["revision"]
    assert [one["address"] for one in answer["endpoints"]] == [endpoint["address"]]
    again = await call("POST", "execution/commit", {"handle": running["handle"]})
    assert again.json == answer.json

    await _is_shown(call, created["id"], endpoint["address"])
    await _goes(call, held["handle"])
    assert (await call("POST", "execution/commit", {"handle": running["handle"]})).json == answer.json


async def _is_shown(call: Api, id_: str, address: str) -> None:
    container = await call("GET", "execution/containers/cookie_monster")
    assert {
        *("id", "name", "image", "state", "labels", "annotations", "process", "resources", "endpoints", "mounts"),
        *("tasks", "host", "revision", "createdAt", "startedAt"),
    } <= container.json.keys()
    (one,) = container["endpoints"]
    assert {
        *("id", "network", "containerId", "address", "prefixLength", "gateway", "macAddress", "aliases", "ports"),
        "state",
    } <= one.keys()
    assert one["network"] == "gibson_network"
    assert one["containerId"] == id_
    assert one["state"] == "bound"
    async with asyncio.timeout(20):
        while not (logs := await call.ok("GET", "interaction/containers/cookie_monster/logs")).body:
            await asyncio.sleep(0.01)
    assert logs.body.decode().strip() == address


async def _goes(call: Api, handle: str) -> None:
    await call.refused(409, "InvalidState", "DELETE", "execution/containers/cookie_monster")
    await call.refused(423, "InUse", "DELETE", "network/networks/gibson_network")
    await call.refused(423, "InUse", "DELETE", "storage/images/busybox")
    assert (await call("DELETE", "execution/containers/cookie_monster?force=true")).status == 204
    assert (await call("GET", "execution/containers/cookie_monster")).status == 404
    await call.refused(404, "NotFound", "POST", "network/leave", {"handle": handle, "network": "x"})
    assert (await call("DELETE", "network/networks/gibson_network")).status == 204


async def test_a_stale_overlapping_commit_names_what_collided(call: Api) -> None:
    handle = await create(call, "stale", "true", labels={"colour": "blue", "size": "1"})
    await call.ok("POST", "execution/commit", {"handle": handle})
    base = (await call.ok("POST", "execution/containers/stale/handle"))["handle"]
    changes = {"red": {"colour": "red"}, "green": {"colour": "green"}, "big": {"size": "9"}}
    drafts = {
        name: (await call.ok("POST", "execution/set-labels", {"handle": base, "labels": labels}))["handle"]
        for name, labels in changes.items()
    }
    await call.ok("POST", "execution/commit", {"handle": drafts["red"]})
    problem = await call.refused(409, "Conflict", "POST", "execution/commit", {"handle": drafts["green"]})
    assert problem["collisions"] == ["labels/colour"]
    await call.ok("POST", "execution/commit", {"handle": drafts["big"]})
    shown = await call.ok("GET", "execution/containers/stale")
    assert shown["labels"] == {"colour": "red", "size": "9"}
    await call.refused(410, "HandleInvalid", "POST", "execution/commit", {"handle": base[:-2]})
    assert (await call("POST", "execution/discard", {"handle": drafts["green"]})).status == 204


async def test_several_containers_are_one_change(server: Served, call: Api) -> None:
    handles = [await create(call, f"several{number}", "sleep", "1000", **server.near) for number in range(3)]
    running = [
        (await call.ok("POST", "execution/set-state", {"handle": handle, "state": "running"}))["handle"]
        for handle in handles
    ]
    taken = await create(call, "several1", "true", **server.near)
    await call.ok("POST", "execution/commit", {"handle": taken})
    await call.refused(409, "AlreadyExists", "POST", "execution/commit", {"handles": running})
    listed = (await call.ok("GET", "execution/containers"))["containers"]
    assert [one["name"] for one in listed if one["name"].startswith("several")] == ["several1"]
    await call.ok("DELETE", "execution/containers/several1")
    answer = await call.ok("POST", "execution/commit", {"handles": running})
    assert [one["state"] for one in answer["containers"]] == ["running"] * 3
    for number in range(3):
        await call.ok("DELETE", f"execution/containers/several{number}?force=true")


async def test_attach_over_a_websocket(call: Api) -> None:
    handle = await create(call, "echo", "sh", "-c", "read line; echo got $line; echo bad >&2; exit 5")
    handle = (await call.ok("POST", "interaction/join", {"handle": handle, "stdin": True}))["handle"]
    handle = (await call.ok("POST", "interaction/bind", {"handle": handle}))["handle"]
    handle = (await call.ok("POST", "execution/set-state", {"handle": handle, "state": "running"}))["handle"]
    await call.ok("POST", "execution/commit", {"handle": handle})
    target = url("interaction/containers/echo/attach?stdin=true&logs=true")
    async with call.session.ws_connect(target, protocols=(PROTOCOL,)) as socket_:
        assert socket_.protocol == PROTOCOL
        await socket_.send_bytes(b"\0a cookie\n")
        frames = [message.data async for message in socket_ if message.type is aiohttp.WSMsgType.BINARY]
    assert all(len(frame) <= 65536 for frame in frames)
    said = {stream: b"".join(frame[1:] for frame in frames if frame[0] == stream) for stream in (1, 2)}
    assert said == {1: b"got a cookie\n", 2: b"bad\n"}
    assert frames[-1][0] == 3
    assert json.loads(frames[-1][1:]).items() >= {"type": "exit", "exitCode": 5}.items()
    assert (await call.ok("GET", "interaction/containers/echo/logs?stdout=false")).body == b"bad\n"


async def test_compose_is_one_round_trip(call: Api) -> None:
    await call.ok("POST", "network/networks", {"name": "composed"})
    steps = [
        {"call": "execution/create", "image": "busybox", "name": "composed", "process": {"args": ["true"]}},
        {"call": "network/join", "network": "composed"},
        {"call": "network/bind"},
        {"call": "execution/set-state", "state": "running"},
        {"call": "execution/commit"},
    ]
    answer = await call.ok("POST", "execution/compose", {"steps": steps})
    assert answer.status == 200
    waited = await call.ok("GET", "execution/containers/composed/wait?timeoutSeconds=20")
    assert waited.json == {"exitCode": 0, "state": "stopped"}
    free = (await call.ok("GET", "network/networks/composed"))["freeAddresses"]
    steps[0]["name"], steps[3]["state"] = "another", "running fast"
    await call.refused(400, "InvalidArgument", "POST", "execution/compose", {"steps": steps})
    assert (await call.ok("GET", "network/networks/composed"))["freeAddresses"] == free
    await call.ok("DELETE", "execution/containers/composed")
    await call.ok("DELETE", "network/networks/composed")


async def test_events_resume_where_they_were_left(call: Api) -> None:
    first = await _events(call, 2, "events?since=0")
    rest = await _events(call, 1, "events?since=now", first[0]["id"])
    assert rest[0] == first[1]
    assert {"id", "event", "data"} <= rest[0].keys()


async def _events(call: Api, many: int, path: str, last: str | None = None) -> list[dict[str, str]]:
    """The first events of a stream."""
    found: list[dict[str, str]] = []
    headers = {"Last-Event-ID": last} if last else {}
    async with asyncio.timeout(20), call.session.get(url(path), headers=headers) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        block: dict[str, str] = {}
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                block[name] = value
                continue
            if "id" in block:
                found.append(block)
            block = {}
            if len(found) == many:
                return found
    raise AssertionError(f"the stream ended after {found}")


async def test_a_creation_with_a_key_happens_once(call: Api) -> None:
    key = {"Idempotency_Key": "once-only"}
    first = await call.ok("POST", "storage/volumes", {"labels": {"a": "1"}}, **key)
    assert (first.status, (await call("POST", "storage/volumes", {"labels": {"a": "1"}}, **key)).json) == (
        201,
        first.json,
    )
    other = await call("POST", "storage/volumes", {"labels": {"a": "2"}}, **key)
    assert other.status in (400, 409), "another request under the same key is no retry"
    assert (await call("DELETE", f"storage/volumes/{first['id']}")).status == 204


async def test_small_values_have_etags(call: Api) -> None:
    put = await call("PUT", "kv/persona.docker", b"one")
    assert put.status == 204
    etag = put.headers["ETag"]
    got = await call("GET", "kv/persona.docker")
    assert (got.status, got.body, got.headers["ETag"]) == (200, b"one", etag)
    changed = await call("PUT", "kv/persona.docker", b"two", If_Match=etag)
    assert changed.headers["ETag"] != etag
    await call.refused(409, "Conflict", "PUT", "kv/persona.docker", b"three", If_Match=etag)
    await call.refused(409, "Conflict", "DELETE", "kv/persona.docker", If_Match=etag)
    assert (await call("DELETE", "kv/persona.docker", If_Match=changed.headers["ETag"])).status == 204
    await call.refused(404, "NotFound", "GET", "kv/persona.docker")


async def test_an_import_with_a_key_happens_once(call: Api) -> None:
    key = {"Idempotency_Key": "import-once"}
    tar = images.tar([images.directory("etc"), images.file("etc/motd", b"once")])
    path = "storage/images/import?name=once&format=rootfs"
    first = await call.ok("POST", path, tar, **key)
    image = first["images"][0]["id"]
    await call.ok("POST", "storage/images/import?name=once&format=rootfs", images.tar([images.file("other")]))
    assert (await call.ok("POST", path, tar, **key)).json == first.json
    newest = await call.ok("GET", "storage/images/once")
    assert newest["id"] != image  # the name is the newer image's, and stays so
    for other in (("storage/images/import?name=twice&format=rootfs", tar), (path, images.tar([images.file("third")]))):
        problem = await call.refused(400, "InvalidArgument", "POST", *other, **key)
        assert "Idempotency-Key" in problem["detail"]
    listed = (await call.ok("GET", "storage/images"))["images"]
    assert "twice:latest" not in [name for one in listed for name in one["names"]]
    await call.ok("DELETE", f"storage/images/{image}")
    assert (await call.ok("POST", path, tar, **key)).json == first.json
    await call.ok("DELETE", "storage/images/once")


async def test_waits_end_in_time(call: Api) -> None:
    await run(call, "sleeper", "sh", "-c", "exec sleep 1000")
    await call.refused(504, "DeadlineExceeded", "GET", "execution/containers/sleeper/wait?timeoutSeconds=0.1")
    waiting = asyncio.create_task(call.ok("GET", "execution/containers/sleeper/wait?timeoutSeconds=20"))
    assert (await call("POST", "execution/containers/sleeper/signal", {"signal": "SIGKILL"})).status == 204
    assert (await waiting).json == {"exitCode": 137, "state": "stopped"}
    wait = "execution/containers/sleeper/wait?condition=removed"
    removed = asyncio.create_task(call.ok("GET", wait))
    await call.refused(504, "DeadlineExceeded", "GET", f"{wait}&timeoutSeconds=0.1")  # so the first one waits by now
    await call.ok("DELETE", "execution/containers/sleeper")
    assert (await removed)["exitCode"] is None or (await removed)["exitCode"] == 137


async def test_a_published_port_is_reached_from_the_host(server: Served, call: Api) -> None:
    await call.ok("POST", "network/networks", {"name": "published"})
    handle = await create(
        call, "web", "sh", "-c", "mkdir /www; echo reached >/www/index.html; exec httpd -f -p 80 -h /www", **server.near
    )
    ports = [{"containerPort": 80, "protocol": "tcp"}]
    join = {"handle": handle, "network": "published", "ports": ports}
    handle = (await call.ok("POST", "network/join", join))["handle"]
    handle = (await call.ok("POST", "network/bind", {"handle": handle}))["handle"]
    handle = (await call.ok("POST", "execution/set-state", {"handle": handle, "state": "running"}))["handle"]
    committed = await call.ok("POST", "execution/commit", {"handle": handle})
    (port,) = committed["endpoints"][0]["ports"]
    assert port["hostPort"] > 0
    assert b"reached" in await asyncio.to_thread(_fetched, _own_address(), port["hostPort"])
    await call.ok("DELETE", "execution/containers/web?force=true")
    await call.ok("DELETE", "network/networks/published")


async def test_a_port_leads_to_a_container_while_it_runs(server: Served, call: Api) -> None:
    """Before and after, and where the program cannot be executed, who connects reaches the host's own server."""
    await call.ok("POST", "network/networks", {"name": "published"})
    ports = [{"containerPort": 80, "hostPort": 18093, "protocol": "tcp"}]

    async def committed(name: str, *command: str) -> None:
        handle = await create(call, name, *command, **server.near)
        join = {"handle": handle, "network": "published", "ports": ports}
        handle = (await call.ok("POST", "network/join", join))["handle"]
        handle = (await call.ok("POST", "network/bind", {"handle": handle}))["handle"]
        await call.ok("POST", "execution/commit", {"handle": handle})

    async def become(name: str, state: str, **more: Any) -> Any:
        handle = (await call.ok("POST", f"execution/containers/{name}/handle"))["handle"]
        handle = (await call.ok("POST", "execution/set-state", {"handle": handle, "state": state, **more}))["handle"]
        return (await call.ok("POST", "execution/commit", {"handle": handle})).json

    async def reached() -> bytes:
        return await asyncio.to_thread(_fetched, "127.0.0.1", 18093)

    greeter = await asyncio.start_server(_greet, "127.0.0.1", 18093)
    await committed("web", "sh", "-c", "mkdir -p /www; echo container >/www/index.html; exec httpd -f -p 80 -h /www")
    assert await reached() == b"host"
    await become("web", "running")
    assert b"container" in await reached()
    await become("web", "stopped", timeoutSeconds=0)
    assert await reached() == b"host"
    await become("web", "running")
    assert b"container" in await reached()
    await call("POST", "execution/containers/web/signal", {"signal": "SIGKILL"})
    await call.ok("GET", "execution/containers/web/wait")
    async with asyncio.timeout(30):
        while await reached() != b"host":
            pass
    await call.ok("DELETE", "execution/containers/web")
    script = "#!/no/such/interpreter"
    await committed(
        "wrong", "sh", "-c", f"echo '{script}' > /bin/sh.new; chmod 755 /bin/sh.new; mv /bin/sh.new /bin/sh"
    )
    await become("wrong", "running")
    await call.ok("GET", "execution/containers/wrong/wait")
    assert (await become("wrong", "running"))["state"] == "stopped"
    assert await reached() == b"host"
    await call.ok("DELETE", "execution/containers/wrong")
    await call.ok("DELETE", "network/networks/published")
    greeter.close()
    await greeter.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.to_thread(socket.create_connection, ("127.0.0.1", 18093), 5)


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"host")
    writer.close()


def _own_address() -> str:
    """The address that this host would speak with, or the loopback where it speaks to nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _fetched(address: str, port: int) -> bytes:
    for attempt in range(_TRIES):
        try:
            with socket.create_connection((address, port), timeout=10) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return connection.makefile("rb").read()
        except OSError as error:
            # Of a container that has just ended: its address is nobody's, until the port is taken back.
            if attempt == _TRIES - 1 or error.errno not in {errno.ECONNREFUSED, errno.EHOSTUNREACH}:
                raise
            threading.Event().wait(0.02)
    raise AssertionError


async def test_the_service_says_what_it_is(call: Api) -> None:
    assert (await call("GET", "/healthz")).status == 200
    assert (await call("GET", "/readyz")).status == 200
    info = await call.ok("GET", "/v1/info")
    assert {"version", "components", "substrates", "store"} <= info.json.keys()
    assert (await call.ok("GET", "/v1/openapi.json"))["openapi"].startswith("3.1")
    assert b"<html" in (await call.ok("GET", "/docs")).body.lower()
    assert [vch["name"] for vch in (await call.ok("GET", "/v1/vchs"))["vchs"]] == ["default"]
    assert b"\n# TYPE " in b"\n" + (await call.ok("GET", "/metrics")).body


async def test_two_instances_do_not_disturb_each_other(
    server: Served, call: Api, tmp_path: Path, archive: bytes
) -> None:
    other = Served(tmp_path)
    try:
        other.serve()
        async with api(other.directory) as there:
            image = await call.ok("GET", "storage/images/busybox")
            assert (await there("GET", f"storage/images/{image['id']}")).status == 404
            for one in (call, there):
                if one is there:
                    await one.ok("POST", "storage/images/import?name=busybox", archive)
                await one.ok("POST", "network/networks", {"name": "same"})
                handle = await create(one, "same", "sleep", "1000", **(server.near if one is call else {}))
                for path, more in (
                    ("network/join", {"network": "same"}),
                    ("network/bind", {}),
                    ("execution/set-state", {"state": "running"}),
                ):
                    handle = (await one.ok("POST", path, {"handle": handle, **more}))["handle"]
                await one.ok("POST", "execution/commit", {"handle": handle})
            subnets = [(await one.ok("GET", "network/networks/same"))["subnets"] for one in (call, there)]
            assert subnets[0] != subnets[1]
            held = await there.ok("POST", "execution/containers/same/handle")
            await call.refused(410, "HandleInvalid", "POST", "execution/commit", {"handle": held["handle"]})
            mine = (await call.ok("GET", "execution/containers/same"))["id"]
        assert other.end() == 0
        other.cli.ok("cleanup", "--apply")
        assert other.view.processes() == []
        assert mine in {process.container for process in server.view.processes()}
        assert mine in server.view.mounted()
        assert server.view.links("v")
        assert (await call.ok("GET", "execution/containers/same"))["state"] == "running"
    finally:
        other.close()
    await call.ok("DELETE", "execution/containers/same?force=true")
    await call.ok("DELETE", "network/networks/same")
