"""Two hosts, each a network namespace with directories of its own: one etcd, and TLS between them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import etcdlab
import pytest
from cli.conftest import SECONDS, Cli, serving, stop
from linux.netlab import EAST, WEST, two_hosts

from portlayer.client import Steps, connect_sync

PORT = 7443
TOPOLOGY = f"""
processSeconds = 6

[hosts.east]
labels = {{ zone = "b" }}

[processes.west]
host = "west"
components = ["storage", "network", "execution", "interaction"]
address = "https://{WEST}:{PORT}"

[processes.east]
host = "east"
components = ["execution", "interaction"]
address = "https://{EAST}:{PORT}"
listen = "https://0.0.0.0:{PORT}"
"""


@dataclass(frozen=True)
class Host(Cli):
    """The command on a host of its own."""

    store: str = ""
    served: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PORTLAYER_STORE": self.store}

    def serve(self) -> subprocess.Popen[bytes]:
        config = str(self.directory.parent / "topology.toml")
        self.served.append(serving(self, options=("--config", config, "--process", self.directory.name)))
        return self.served[-1]

    def end(self) -> None:
        """Nothing of it stays on the host."""
        for process in self.served:
            process.kill()
            with process:
                process.wait()
        self.ok("cleanup", "--apply")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """West, which is where the test is, and east."""
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    with two_hosts() as networks, contextlib.ExitStack() as closing:
        (tmp_path / "etcd").mkdir()
        etcd = etcdlab.Cluster(tmp_path / "etcd")
        port = etcd.members[0].client
        etcd.options = ("--listen-client-urls", f"http://127.0.0.1:{port},http://{WEST}:{port}")
        closing.callback(etcd.kill)
        etcd.start()
        made = []
        for name, inside in (("west", ()), ("east", ("nsenter", f"--net={networks['east']}"))):
            (tmp_path / name).mkdir()
            made.append(Host(tmp_path / name, inside, f"etcd://{WEST}:{port}/two"))
            closing.callback(made[-1].end)
        yield made[0], made[1]


def test_two_hosts_are_one_port_layer(hosts: tuple[Host, Host], archive: bytes) -> None:
    west, east = hosts
    running = [west.serve()]
    strange = east("serve", "--config", str(east.directory.parent / "topology.toml"), "--process", "east")
    assert strange.code == 1, "who has another host key does not get in"
    assert "host key" in strange.err
    shutil.copy(west.directory / "state" / "host.key", east.directory / "state" / "host.key")
    running.append(east.serve())
    told = {one["name"]: one for one in west.json("topology")}
    assert {(one["host"], one["health"]) for one in told.values()} == {("west", "ready"), ("east", "ready")}

    with connect_sync(host=f"unix://{west.directory}/run/west.sock") as pl:
        pl.storage.import_image(archive)
        pl.network.create_network("net")
        steps = Steps().create("busybox", "cat", name="far", host="east").join_network("net").bind_network()
        steps = steps.join_interaction(stdin=True).bind_interaction()
        assert pl.execution.commit(steps.set_state("running")).endpoints[0].address
        assert pl.execution.inspect_container("far").host == "east"
        with pl.interaction.attach("far", stdin=True) as attached:
            attached.write(b"x" * 300_000 + b"\n")
            read = b""
            for output in attached:
                read += output.data
                if len(read) > 300_000:
                    break
    with connect_sync(host=f"unix://{east.directory}/run/portlayer.sock") as pl:
        assert sum(len(chunk.data) for chunk in pl.interaction.logs("far")) == 300_001
        assert [network.name for network in pl.network.list()] == ["net"]

    (east.directory / "ca.pem").write_text(west.ok("ca"))
    out = west.ok("cert", "issue", "ursula", "--role", "user", "--vch", "default", "--out", str(east.directory))
    proofs = dict(line.removeprefix("export ").split("=", 1) for line in out.splitlines())
    proofs["PORTLAYER_HOST"] = f"https://{WEST}:{PORT}"
    assert "far" in east.ok("ps", environment=proofs), "known at the other host by a certificate"
    assert east("token", "ls", environment=proofs).code == 1
    files = {name.lower(): proofs[f"PORTLAYER_{name}"] for name in ("CA", "CERT", "KEY")}
    with (
        connect_sync(host=f"https://{EAST}:{PORT}", **files) as pl,
        pl.interaction.attach("far", stdin=True) as attached,
    ):
        attached.write(b"hello\n")
        assert next(iter(attached)).data == b"hello\n"
    code, out_bytes, _ = east.raw("attach", "far", stdin=b"once more\n", environment=proofs)
    assert (code, out_bytes) == (0, b"once more\n"), "there and back again"
    nobody = {name: value for name, value in proofs.items() if name in ("PORTLAYER_HOST", "PORTLAYER_CA")}
    assert "does not know you" in east("ps", environment=nobody).err
    assert [stop(process) for process in running] == [0, 0]


def test_a_host_dies_and_comes_back(hosts: tuple[Host, Host], archive: bytes) -> None:
    west, east = hosts
    west.serve()
    (east.directory / "state").mkdir()
    shutil.copy(west.directory / "state" / "host.key", east.directory / "state" / "host.key")
    running = east.serve()
    (west.directory / "archive").write_bytes(archive)
    west.ok("image", "import", str(west.directory / "archive"))
    assert not list((east.directory / "state" / "layers").iterdir())
    west.ok("network", "create", "net")
    west.ok("volume", "create", "jar")
    _place(west, east)
    _die_and_come_back(west, east, running)


def _place(west: Host, east: Host) -> None:
    forever = ("busybox", "sh", "-c", "echo kept >/jar/it; sleep 1000")
    placed = ("--host-label", "zone=b", "--cpus", "0.1", "-v", "jar:/jar")
    west.ok("run", "-d", "--name", "far", *placed, "--network", "net", *forever)
    assert len(list((east.directory / "state" / "layers").iterdir())) == 1
    there = ("run", "--rm", "-v", "jar:/jar", "busybox", "sh", "-c")
    assert west.ok(*there, "until cat /jar/it 2>/dev/null; do :; done") == "kept\n", "it goes to its volume"
    assert "lives on host east" in west("run", "--rm", "--host", "west", "-v", "jar:/jar", "busybox", "true").err
    many = str(10 * (os.cpu_count() or 1))
    assert "ask for less" in west("run", "--rm", "--placement", "pack", "--cpus", many, "busybox", "true").err
    shown = {host["name"]: host for host in west.json("host", "ls")}
    assert (shown["east"]["state"], shown["east"]["containers"], shown["east"]["committedCpus"]) == ("up", 1, 0.1)


def _die_and_come_back(west: Host, east: Host, running: subprocess.Popen[bytes]) -> None:
    with connect_sync(host=f"unix://{west.directory}/run/west.sock") as pl:
        address = pl.execution.inspect_container("far").endpoints[0].address
        west.ok("run", "-d", "--name", "brief", "--host", "east", "busybox", "sh", "-c", "sleep 9.875; exit 7")
        with running as process:
            process.kill()
        wait_for(lambda: pl.execution.inspect_container("far").state == "unknown")
        told = west.ok("ps")
        assert "unknown" in told
        assert "east" in told
        assert {host["name"]: host["state"] for host in west.json("host", "ls")} == {"east": "away", "west": "up"}
        refused = west("stop", "far")
        assert refused.code == 1
        assert "east" in refused.err
        near = west.ok("run", "-d", "--network", "net", "busybox", "sleep", "1000").strip()
        assert pl.execution.inspect_container(near).endpoints[0].address != address
        found = subprocess.run(["pgrep", "-f", "sleep 1000"], capture_output=True, text=True, check=True).stdout.split()
        assert len(found) >= 2, "what runs on a host that is away runs on"
        wait_for(
            lambda: subprocess.run(["pgrep", "-f", "sleep 9.875"], capture_output=True, check=False).returncode == 1
        )
        assert pl.execution.inspect_container("brief").state == "unknown", "nobody has seen how it ended"

        running = east.serve()
        wait_for(lambda: pl.execution.inspect_container("far").state == "running")
        brief = pl.execution.inspect_container("brief")
        assert (brief.state, brief.exit_code) == ("stopped", 7), "what happened meanwhile is known by then"
        west.ok("stop", "-t", "0", "far")
        assert pl.execution.inspect_container("far").exit_code == 137
        assert stop(running) == 0
        wait_for(lambda: "away" in west.ok("host", "ls"))
        assert "force" in west("host", "rm", "east").err
        assert west.ok("host", "rm", "--force", "east") == "east\n"
        assert [host["name"] for host in west.json("host", "ls")] == ["west"]
        assert "far" not in west.ok("ps", "-a")
        assert west.json("volume", "ls") == []
        running = east.serve()
        state = east.directory / "state"
        wait_for(lambda: not [*(state / "containers").iterdir(), *(state / "volumes").iterdir()])


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)
