"""Two tenants side by side on this host: the same names, no way from one to the other, and nothing left of one."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import images
import pytest
from cli.conftest import Cli
from e2e.conftest import SERVED, Served

from portlayer.client import Steps, SyncPortLayer, connect_sync
from portlayer.model.errors import AlreadyExists, NotFound, ResourceExhausted
from portlayer.model.network import Port
from portlayer.model.service import Quota

SERVES = ("sh", "-c", "httpd -p 80 -h /etc; echo ready; exec sleep 1000")


@pytest.fixture(scope="module", params=SERVED)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = SERVED[request.param](tmp_path_factory.mktemp("pl"))
    try:
        served.serve()
        yield served
        assert served.end() == 0
    finally:
        served.close()


@contextlib.contextmanager
def tenant(server: Served, name: str, quota: Quota | None = None) -> Iterator[SyncPortLayer]:
    """A client for the new VCH *name*, which has the image busybox and the network lan; afterwards it is deleted."""
    with connect_sync(host=server.host, vch=name) as pl:
        pl.service.create_vch(name, quota)
        try:
            pl.storage.import_image(images.busybox_image())
            pl.network.create_network("lan")
            yield pl
        finally:
            with contextlib.suppress(NotFound):
                pl.service.remove_vch(name, force=True)


def run(pl: SyncPortLayer, name: str, *command: str, ports: tuple[Port, ...] = (), **near: str) -> str:
    """near: where the others are that it shall meet."""
    steps = Steps().create("busybox", *command, name=name, **near).join_network("lan", ports=ports).bind_network()
    return pl.execution.commit(steps.set_state("running")).id


def fetched(pl: SyncPortLayer, address: str, seconds: int, **near: str) -> str:
    """What a container of *pl* gets from the web server at *address*, which answers at once or never."""
    ask = rf"printf 'GET /hostname HTTP/1.0\r\n\r\n' | nc -w {seconds} {address} 80"
    run(pl, "asks", "sh", "-c", ask, **near)
    pl.execution.wait("asks", timeout_seconds=60)
    logs = b"".join(chunk.data for chunk in pl.interaction.logs("asks", stderr=False))
    pl.execution.remove("asks")
    return logs.decode()


def address(pl: SyncPortLayer, name: str) -> str:
    return pl.execution.inspect_container(name).endpoints[0].address


def test_two_tenants_side_by_side(server: Served) -> None:
    with tenant(server, "left") as left, tenant(server, "right") as right:
        for pl in (left, right):
            run(pl, "web", *SERVES, **server.near)
            for chunk in pl.interaction.logs("web", follow=True):
                assert chunk.data == b"ready\n"
                break
        server.move()
        ids = [pl.execution.inspect_container("web").id for pl in (left, right)]
        for here, name in zip((left, right), ids, strict=True):
            assert fetched(here, address(here, "web"), 30, **server.near).endswith(f"\n{name[:12]}\n")
        for here, there in ((left, right), (right, left)):
            assert fetched(here, address(there, "web"), 1, **server.near) == ""
        left.execution.remove("web", force=True)
        assert right.execution.inspect_container("web").state == "running"


def test_a_port_that_is_taken_is_nobodys(server: Served) -> None:
    with tenant(server, "left") as left, tenant(server, "right") as right:
        ports = (Port(container_port=80, host_port=18080),)
        run(left, "web", *SERVES, ports=ports, **server.near)
        told = []
        for pl in (left, right):
            with pytest.raises(AlreadyExists) as caught:
                run(pl, "other", *SERVES, ports=ports, **server.near)
            told.append((caught.value.detail, caught.value.facts))
        assert told[0] == told[1]


def test_force_leaves_nothing_of_one_on_the_host(server: Served) -> None:
    with tenant(server, "left") as left, tenant(server, "right") as right:
        own = images.oci_archive(images.Built([images.tar([images.file("own", b"own")])], "own"))
        left.storage.import_image(own)
        for pl in (left, right):
            pl.storage.create_volume("jar")
            steps = Steps().create("busybox", "sleep", "1000", name="cookie", **server.near).join_volume("jar", "/jar")
            steps = steps.join_network("lan", ports=(Port(container_port=80),)).bind_network().set_state("running")
            pl.execution.commit(steps)
        server.move()
        cookie = right.execution.inspect_container("cookie").id
        left.service.remove_vch("left", force=True)
        assert {process.container for process in server.view.processes()} == {cookie}
        assert set(server.view.mounted()) == {cookie}
        assert len(server.view.links("v")) == 1
        state = server.directory / "state"
        assert len(list((state / "layers").iterdir())) == 1
        assert len(list((state / "volumes").iterdir())) == 1
        with pytest.raises(NotFound):
            left.execution.list()
        assert right.execution.inspect_container("cookie").state == "running"


def test_a_server_that_dies_amid_a_deletion_goes_on_with_it(tmp_path: Path) -> None:
    served = Served(tmp_path)
    try:
        served.serve({"PORTLAYER_FAILPOINTS": "vch.networks=kill"})
        with connect_sync(host=served.host, vch="left") as pl:
            pl.service.create_vch("left")
            pl.storage.import_image(images.busybox_image())
            pl.network.create_network("lan")
            run(pl, "cookie", "sleep", "1000")
            assert served.cli("vch", "rm", "--force", "left").code == 1
            assert served.ended() == -signal.SIGKILL
        served.serve()
        with connect_sync(host=served.host) as pl:
            assert [vch.name for vch in pl.service.list_vchs() if vch.state == "active"] == ["default"]
            with contextlib.suppress(NotFound):
                pl.service.remove_vch("left")
        assert served.view.processes() == []
        assert served.view.links("v") == set()
        assert list((served.directory / "state" / "layers").iterdir()) == []
    finally:
        served.close()


@pytest.mark.parametrize("server", ["all in one"], indirect=True)  # its calls are the same everywhere, as those above
def test_the_command_line(server: Served) -> None:
    cli: Cli = server.cli
    cli.ok("vch", "create", "tenant", "--containers", "1", "--memory", "1g", "--cpus", "1.5")
    (shown,) = cli.json("vch", "inspect", "tenant")
    assert shown["quota"] == {"containers": 1, "memoryBytes": 1 << 30, "cpus": 1.5}
    assert cli.json("vch", "set", "tenant", "--memory", "none", "--cpus", "none", "--networks", "0")["quota"] == {
        "containers": 1,
        "networks": 0,
    }
    with connect_sync(host=server.host, vch="tenant") as pl:
        pl.storage.import_image(images.busybox_image())
        with pytest.raises(ResourceExhausted):
            pl.network.create_network("lan")
    cli.ok("--vch", "tenant", "run", "-d", "--name", "cookie", "busybox", "sleep", "1000")
    assert "cookie" in cli.ok("ps", environment={"PORTLAYER_VCH": "tenant"})
    assert "cookie" not in cli.ok("ps")
    table = [line.split() for line in cli.ok("vch", "ls").splitlines()]
    assert [line[:3] for line in table] == [
        ["NAME", "STATE", "CONTAINERS"],
        ["default", "active", "0"],
        ["tenant", "active", "1/1"],
    ]
    refused = cli("vch", "rm", "tenant")
    assert refused.code == 1
    assert "1 containers, 1 images" in refused.err
    for option in ("--cpus", "--memory", "--networks"):
        assert cli("vch", "set", "tenant", option, "many").err.endswith(", or none.\n")
    assert cli.ok("vch", "rm", "--force", "tenant") == "tenant\n"
    assert server.view.processes() == []
