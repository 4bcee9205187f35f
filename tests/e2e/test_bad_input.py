"""What callers, archives and hosts do wrong: the error of its class, with the reason, and nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import images
import pytest
from e2e.conftest import SERVED, Served
from e2e.raw import Api, api

from portlayer.client import Steps, connect_sync

IMPORT = "storage/images/import?name=bad"
CREATE = {"image": "busybox", "process": {"args": ["true"]}}
ROOTFS = images.tar([images.directory("etc/"), images.file("etc/motd", os.urandom(4096))])
GOOD = images.oci_archive(images.Built([ROOTFS], "bad:latest", {}))


def image_of(*entries: images.Entry) -> bytes:
    return images.oci_archive(images.Built([images.tar(entries)], "bad:latest", {}))


def corrupt(archive: bytes) -> bytes:
    """One byte of the layer is another."""
    at = archive.index(ROOTFS[1024:2048])
    return archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]


ARCHIVES = {
    "empty": b"",
    "no tar": b"this is no archive at all" * 100,
    "truncated": GOOD[: len(GOOD) // 2],
    "cut gzip": images.compress(GOOD, "gzip")[:-20],
    "corrupt": corrupt(GOOD),
    "an absolute path that is no archive": images.tar([images.file("/etc/passwd", b"x")]),
    "a path that climbs": image_of(images.file("../../escaped", b"x")),
    "a link that leads out": image_of(images.symlink("out", "/"), images.hard_link("in", "out/../../etc/passwd")),
    "blobs that are missing": images.archive({"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}),
    "an index that is no JSON": images.archive({"oci-layout": b"{}", "index.json": b"{"}),
}


@pytest.fixture(scope="module", params=SERVED)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, archive: bytes
) -> Iterator[Served]:
    """One for all tests that change nothing about it: each host has the image's layer."""
    served = SERVED[request.param](tmp_path_factory.mktemp("pl"))
    try:
        served.serve()
        with connect_sync(host=served.host) as pl:
            pl.storage.import_image(archive)
            for host in pl.service.info().hosts:
                pl.execution.remove(pl.execution.commit(Steps().create("busybox", host=host.name)).id)
        yield served
        assert served.end() == 0
        assert '"level":"error"' not in (served.directory / "log").read_text()
    finally:
        served.close()


@pytest.fixture
async def call(server: Served) -> AsyncIterator[Api]:
    """To it; afterwards it has what it had before."""
    async with api(server.directory, server.socket) as call:
        before = await everything(server, call)
        call.before_commit = server.move
        yield call
        assert await everything(server, call) == before


async def everything(served: Served, call: Api) -> dict[str, Any]:
    """What the API lists and what the host has."""
    lists = ("storage/images", "storage/volumes", "network/networks", "execution/containers")
    areas = ("layers", "containers", "volumes", "staging", "uploads")
    return {
        **{path: (await call.ok("GET", path)).json for path in lists},
        **{area: [view.trees(area) for view in served.views] for area in areas},
        "host": [
            (view.mounted(), view.groups(), view.incarnations(), view.links("v"), view.links("b"))
            for view in served.views
        ],
    }


BODIES: list[tuple[str, Any]] = [
    ("an unknown field", {**CREATE, "imagename": "x"}),
    ("an unknown field inside", {**CREATE, "process": {"arguments": ["true"]}}),
    ("a number for a text", {**CREATE, "name": 7}),
    ("a text for a list", {**CREATE, "process": {"args": "true"}}),
    ("null for a text", {**CREATE, "image": None}),
    ("nothing", {}),
    ("a list", []),
    ("no JSON", b"{"),
    ("no UTF-8", b'{"image": "\xff"}'),
    ("a name with a slash", {**CREATE, "name": "a/b"}),
    ("a name with NUL", {**CREATE, "name": "a\0b"}),
    ("a name that looks like an id", {**CREATE, "name": "0123456789abcdef" * 2}),
    ("a name that is too long", {**CREATE, "name": "a" * 5000}),
    ("an argument with NUL", {**CREATE, "process": {"args": ["a\0b"]}}),
    ("a directory that is relative", {**CREATE, "process": {"args": ["true"], "cwd": "tmp"}}),
    ("too many cores", {**CREATE, "resources": {"cpus": 1e300}}),
    ("negative cores", {**CREATE, "resources": {"cpus": -1}}),
    ("negative memory", {**CREATE, "resources": {"memoryBytes": -1}}),
    ("more memory than numbers reach", {**CREATE, "resources": {"memoryBytes": 10**40}}),
    ("no processes", {**CREATE, "resources": {"pids": 0}}),
    ("a stop that takes for ever", {**CREATE, "stopTimeoutSeconds": 1e18}),
    ("a signal that there is not", {**CREATE, "stopSignal": "SIGCOOKIE"}),
    ("no signal at all", {**CREATE, "stopSignal": ""}),
    ("a policy that there is not", {**CREATE, "restartPolicy": {"name": "sometimes"}}),
]


@pytest.mark.parametrize(("name", "body"), BODIES, ids=[name for name, _ in BODIES])
async def test_requests_that_are_wrong(call: Api, name: str, body: Any) -> None:
    await call.refused(400, "InvalidArgument", "POST", "execution/create", body, Content_Type="application/json")


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("GET", "execution/containers/nobody", None),
        ("GET", "execution/containers/a%2Fb", None),
        ("GET", "execution/containers/a%00b", None),
        ("POST", "execution/containers/nobody/handle", None),
        ("POST", "execution/create", {"image": "nothing"}),
        ("GET", "network/networks/nowhere", None),
        ("DELETE", "storage/volumes/none", None),
        ("GET", "storage/images/none", None),
        ("GET", "interaction/containers/nobody/logs", None),
        ("GET", "no/such/call", None),
        ("GET", "/v1/vchs/other/execution/containers", None),
    ],
)
async def test_what_there_is_not(call: Api, verb: str, path: str, body: Any) -> None:
    answer = await call(verb, path, body)
    assert answer.status in (400, 404), answer
    await call.refused(answer.status, "NotFound" if answer.status == 404 else "InvalidArgument", verb, path, body)


@pytest.mark.parametrize("name", ARCHIVES)
async def test_archives_that_are_wrong(server: Served, call: Api, name: str) -> None:
    await call.refused(400, "InvalidArgument", "POST", IMPORT, ARCHIVES[name])
    assert not list(server.directory.rglob("escaped"))


async def test_an_image_without_layers_has_nothing_to_run(call: Api) -> None:
    answer = await call("POST", IMPORT, images.oci_archive(images.Built([], "bad:latest", {"Cmd": ["sh"]})))
    if answer.status == 400:
        assert "layer" in answer["detail"]
        return
    handle = (await call.ok("POST", "execution/create", {"image": "bad"}))["handle"]
    await call.refused(400, "InvalidArgument", "POST", "execution/commit", {"handle": handle})
    await call.ok("DELETE", "storage/images/bad?prune=true")


@pytest.mark.parametrize("what", ["add", "drop"])
async def test_a_capability_that_there_is_not(call: Api, what: str) -> None:
    body = {**CREATE, "process": {"args": ["true"], "capabilities": {what: ["net_raw", "ALL", "CAP_COOKIE"]}}}
    problem = await call.refused(400, "InvalidArgument", "POST", "execution/create", body)
    assert (problem["pointer"], "COOKIE" in problem["detail"]) == (f"/process/capabilities/{what}/2", True)


@pytest.mark.parametrize("capacity", [-1, 0, 1 << 20, 1 << 60])
async def test_capacities_that_there_are_not(call: Api, capacity: int) -> None:
    body = {"name": "cask", "capacityBytes": capacity}
    problem = await call.refused(400, "InvalidArgument", "POST", "storage/volumes", body)
    assert problem["pointer"] == "/capacityBytes"


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize(("program", "code"), [("/no/such/program", 127), ("/etc/passwd", 126), ("nothing", 127)])
async def test_programs_that_cannot_run(call: Api, program: str, code: int, init: bool) -> None:
    body = {"image": "busybox", "name": "wrong", "process": {"args": [program], "init": init}}
    handle = (await call.ok("POST", "execution/create", body))["handle"]
    handle = (await call.ok("POST", "execution/set-state", {"handle": handle, "state": "running"}))["handle"]
    committed = await call.ok("POST", "execution/commit", {"handle": handle})
    shown = await call.ok("GET", "execution/containers/wrong")
    assert (committed["state"], shown["state"], shown["exitCode"]) == ("stopped", "stopped", code)
    assert shown["startError"]
    await call.ok("DELETE", "execution/containers/wrong")


async def test_a_hardware_address_that_is_none(call: Api) -> None:
    await call.ok("POST", "network/networks", {"name": "lan"})
    handle = (await call.ok("POST", "execution/create", CREATE))["handle"]
    for address in ("", "cookie"):
        join = {"handle": handle, "network": "lan", "macAddress": address}
        problem = await call.refused(400, "InvalidArgument", "POST", "network/join", join)
        assert problem["pointer"] == "/macAddress"
    await call.ok("DELETE", "network/networks/lan")


async def test_addresses_that_cannot_be_had(call: Api) -> None:
    small = {"subnet": "10.231.7.0/29"}
    await call.ok("POST", "network/networks", {"name": "small", "subnets": [small]})
    overlapping = {"name": "other", "subnets": [{"subnet": "10.231.0.0/16"}]}
    answer = await call("POST", "network/networks", overlapping)
    assert answer.status in (400, 409), answer
    assert "10.231." in answer["detail"]
    for subnet in ("10.231.8.1/24", "10.231.8.0/33", "fe80::/64", "all of it"):
        answer = await call("POST", "network/networks", {"name": "other", "subnets": [{"subnet": subnet}]})
        assert answer.status == 400, answer

    async def bound(address: str | None = None) -> str:
        return str((await call.ok("POST", "network/bind", {"handle": await joined(address)}))["handle"])

    async def joined(address: str | None = None) -> str:
        handle = (await call.ok("POST", "execution/create", CREATE))["handle"]
        join = {"handle": handle, "network": "small", "address": address}
        return str((await call.ok("POST", "network/join", join))["handle"])

    held = [await bound("10.231.7.3")]
    await call.refused(409, "AlreadyExists", "POST", "network/bind", {"handle": await joined("10.231.7.3")})
    held += [await bound() for _ in range(4)]
    problem = await call.refused(429, "ResourceExhausted", "POST", "network/bind", {"handle": await joined()})
    assert problem["resource"] == "addresses"
    handle = (await call.ok("POST", "execution/create", CREATE))["handle"]
    outside = {"handle": handle, "network": "small", "address": "10.9.9.9"}
    await call.refused(400, "InvalidArgument", "POST", "network/join", outside)
    for handle in held:
        await call.ok("POST", "execution/discard", {"handle": handle})
    assert (await call.ok("GET", "network/networks/small"))["freeAddresses"] == 5
    await call.ok("DELETE", "network/networks/small")


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Served]:
    """A server whose state is on a disk of 16 MB."""
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", state], check=True)
    served = Served(tmp_path)
    try:
        served.serve()
        yield served
    finally:
        served.close()
        subprocess.run(["umount", state], check=True)


async def test_a_disk_that_is_full(cramped: Served, archive: bytes) -> None:
    async with api(cramped.directory) as call:
        await call.ok("POST", "storage/images/import?name=busybox", archive)
        before = await everything(cramped, call)
        large = images.oci_archive(images.Built([images.tar([images.file("large", os.urandom(24 << 20))])], "large"))
        problem = await call.refused(429, "ResourceExhausted", "POST", "storage/images/import", large)
        assert problem["resource"] == "disk"
        assert await everything(cramped, call) == before

        handle = (await call.ok("POST", "execution/create", CREATE))["handle"]
        handle = (await call.ok("POST", "execution/set-state", {"handle": handle, "state": "running"}))["handle"]
        filler = cramped.directory / "state" / "filler"
        fill(filler)
        refused = await call("POST", "execution/commit", {"handle": handle})
        assert (refused.status, refused["code"]) in {(429, "ResourceExhausted"), (503, "Unavailable")}, refused
        assert "disk" in refused["detail"]
        filler.unlink()
        assert await everything(cramped, call) == before
        assert (await call.ok("POST", "execution/commit", {"handle": handle}))["state"] == "running"
        await call.ok("DELETE", f"execution/containers/{(await newest(call))['id']}?force=true")


async def newest(call: Api) -> dict[str, Any]:
    container: dict[str, Any] = (await call.ok("GET", "execution/containers"))["containers"][-1]
    return container


def fill(file: Path) -> None:
    """Until not a byte more is free."""
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                continue


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Served]:
    """An instance without a server."""
    served = Served(tmp_path)
    yield served
    served.close()


@pytest.mark.parametrize("runtime", ["nothing-of-this-name", "/no/such/crun", "runtime-that-is-none"])
def test_a_runtime_that_is_not_there(stopped: Served, runtime: str) -> None:
    done = stopped.cli("serve", environment={"PORTLAYER_RUNTIME": runtime})
    assert done.code == 1
    assert "No OCI runtime works on this host" in done.err
    assert "apt install crun" in done.err
    assert len(done.err.splitlines()) == 1
    assert "Nothing" in stopped.cli.ok("cleanup")


RUNTIMES = {
    "lies": "echo '{}'; exit 0",
    "complains": "echo 'the moon is in the wrong place' >&2; exit 1",
    "dies": "kill -9 $$",
}


def runtime_script(directory: Path, bad: str) -> Path:
    """A runtime that is crun, until a file says that it is bad."""
    script = directory / "crun-sabotaged"
    script.write_text(
        f'#!/bin/sh\nif [ -e {directory}/bad ]; then case " $* " in *" create "*) {bad};; esac; fi\nexec crun "$@"\n'
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("how", RUNTIMES)
def test_a_runtime_that_never_works(stopped: Served, how: str) -> None:
    script = runtime_script(stopped.directory, RUNTIMES[how])
    (stopped.directory / "bad").touch()
    done = stopped.cli("serve", environment={"PORTLAYER_RUNTIME": str(script)})
    assert done.code == 1
    assert f"No OCI runtime works on this host ({script}" in done.err
    assert "Nothing" in stopped.cli.ok("cleanup")


@pytest.mark.parametrize("how", RUNTIMES)
async def test_a_runtime_that_works_no_more(stopped: Served, archive: bytes, how: str) -> None:
    script = runtime_script(stopped.directory, RUNTIMES[how])
    stopped.serve(environment={"PORTLAYER_RUNTIME": str(script)})
    async with api(stopped.directory) as call:
        await call.ok("POST", "storage/images/import?name=busybox", archive)
        await call.ok("POST", "network/networks", {"name": "lan"})
        before = await everything(stopped, call)
        handle = (await call.ok("POST", "execution/create", CREATE))["handle"]
        handle = (await call.ok("POST", "network/join", {"handle": handle, "network": "lan"}))["handle"]
        handle = (await call.ok("POST", "network/bind", {"handle": handle}))["handle"]
        handle = (await call.ok("POST", "execution/set-state", {"handle": handle, "state": "running"}))["handle"]
        (stopped.directory / "bad").touch()
        problem = await call.refused(502, "SubstrateFailed", "POST", "execution/commit", {"handle": handle})
        assert problem["step"]
        assert str(script) in problem["detail"]
        now = await everything(stopped, call)
        assert now["execution/containers"]["containers"] == []
        assert now["containers"] == before["containers"]
        assert now["host"][0][:4] == before["host"][0][:4]
        (stopped.directory / "bad").unlink()
        assert (await call.ok("POST", "execution/commit", {"handle": handle}))["state"] == "running"
        await call.ok("DELETE", f"execution/containers/{(await newest(call))['id']}?force=true")
    assert stopped.end(signal.SIGTERM) == 0, (stopped.directory / "log").read_text()
