"""Hosts as network namespaces on one bridge, which can be cut from each other: processes of one port layer on some, the
members of an etcd on others. All is real: servers, etcd, containers, TLS, the packets and that which drops them.

Processes of one host have its directories, and reach each other over the network all the same. Tests reach each at its
unix socket, which no cut concerns.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import etcdlab
import images
from driver import Driver
from e2e import forked
from e2e.hostview import HostView
from linux.netlab import Machine, fresh_host, ip
from partitions.laws import Laws

from portlayer.rest.client import RestClient


class Part(NamedTuple):
    """What a process has, and on which host of the port layer it is: each has directories of its own."""

    components: tuple[str, ...]
    host: str = "local"


ONE_HOST = {
    "storage": Part(("storage",)),
    "network": Part(("network",)),
    "rest": Part(("execution", "interaction")),
}
TWO_HOSTS = {
    "a": Part(("storage", "execution", "interaction"), "a"),
    "b": Part(("execution", "interaction"), "b"),
    "c": Part(("network",), "c"),
}
PROCESS_SECONDS = 4
"""A lease of a process, which is 30 in life."""
LONGER_THAN_LEASE = PROCESS_SECONDS + 5.5
"""Until etcd has ended the lease of a process that is silent."""
START_SECONDS = 60
QUOTA_BYTES = 48 << 20


class Host:
    """A namespace with an address of its own."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number}"
        self.machine = Machine()
        outer = f"h{number}"
        ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", str(self.machine.pid))
        ip("link", "set", outer, "master", "lan", "up")
        for words in (("link", "set", "lo", "up"), ("addr", "add", f"{self.address}/24", "dev", "eth0")):
            self.machine.ip(*words)
        self.machine.ip("link", "set", "eth0", "up")

    @property
    def inside(self) -> Sequence[str]:
        return ("nsenter", "-t", str(self.machine.pid), "-n")

    @property
    def namespace(self) -> str:
        return f"/proc/{self.machine.pid}/ns/net"

    def nft(self, rules: str) -> None:
        subprocess.run([*self.inside, "nft", "-f", "-"], input=rules, text=True, check=True)

    def cut(self, *others: Host, ways: Sequence[str] = ("in", "out")) -> None:
        """Packets between this host and *others* vanish; ways: those that come, those that go, or both."""
        from_them = [f"add rule inet cut in ip saddr {one.address} drop" for one in others if "in" in ways]
        to_them = [f"add rule inet cut out ip daddr {one.address} drop" for one in others if "out" in ways]
        self.nft(
            "\n".join(
                [
                    "add table inet cut",
                    "add chain inet cut in { type filter hook input priority -300; }",
                    "add chain inet cut out { type filter hook output priority -300; }",
                    *from_them,
                    *to_them,
                ]
            )
        )

    def heal(self) -> None:
        self.nft("add table inet cut\ndelete table inet cut")


class Process:
    """A server of ours on *host*."""

    def __init__(self, name: str, host: Host, directory: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.host = host
        self.environment = environment
        self.log = directory / f"{name}.log"
        self._config = directory / "topology.toml"
        self._process: ForkServerProcess | None = None
        self.killed = False
        self.client = RestClient(f"unix://{environment['PORTLAYER_RUN']}/{name}.sock")
        self.driver = Driver(self.client.components)

    async def start(self) -> None:
        words = ["serve", "--config", str(self._config), "--process", self.name]
        self._process, reading = forked.start(words, self.environment, self.log, self.host.namespace)
        async with asyncio.timeout(START_SECONDS):
            said = await asyncio.to_thread(forked.output, reading, until=b"\n")
        assert b"serves unix://" in said, self.log.read_text()[-3000:]

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """Who calls it meanwhile finds nobody who could tell when to come again."""
        self.killed = True
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.join, START_SECONDS)

    async def stop(self) -> None:
        await self.client.close()
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.join, START_SECONDS)
            if self._process.exitcode is None:
                self._process.kill()
            self._process.close()
            self._process = None


class Lab:
    """The hosts, what runs on them, and the laws that hold whatever happens to them."""

    def __init__(
        self, directory: Path, hosts: dict[str, Host], etcd: etcdlab.Cluster, layout: Mapping[str, Part]
    ) -> None:
        self.directory = directory
        self.hosts = hosts
        self.etcd = etcd
        self.views = {part.host: HostView(directory / part.host) for part in layout.values()}
        self.laws = Laws(etcd, "lab", self.views.values())
        self.processes = {
            name: Process(name, hosts[name], directory, self._environment(part.host)) for name, part in layout.items()
        }
        lines = [f"processSeconds = {PROCESS_SECONDS}", "reconcileSeconds = 2"]
        for name, part in layout.items():
            lines += [f"[processes.{name}]", f"components = {json.dumps(part.components)}", f'host = "{part.host}"']
            lines += [f'address = "https://{hosts[name].address}:7443"']
        (directory / "topology.toml").write_text("\n".join(lines))

    def _environment(self, host: str) -> dict[str, str]:
        view = self.views[host]
        return {
            "PORTLAYER_STATE": str(view.state),
            "PORTLAYER_RUN": str(view.run),
            "PORTLAYER_STORE": f"etcd://{','.join(self.etcd.endpoints)}/lab",
        }

    @property
    def stores(self) -> list[Host]:
        """The hosts of etcd's members."""
        return [host for name, host in self.hosts.items() if name.startswith("etcd")]

    def host_of(self, member: etcdlab.Member) -> Host:
        return next(host for host in self.stores if host.address == member.host)

    async def start(self) -> None:
        first, *others = self.processes.values()
        await first.start()
        key = (Path(first.environment["PORTLAYER_STATE"]) / "host.key").read_bytes()
        for view in self.views.values():
            view.state.mkdir(parents=True, exist_ok=True)
            (view.state / "host.key").write_bytes(key)
            (view.state / "host.key").chmod(0o600)
        await asyncio.gather(*(process.start() for process in others))
        await first.driver.archive(images.busybox_image())
        await first.driver.network("lan")

    def heal(self) -> None:
        """All packets arrive, all processes go on, all members run."""
        for host in self.hosts.values():
            host.heal()
        for process in self.processes.values():
            process.signal(signal.SIGCONT)
        for member in self.etcd.members:
            if member.process is None:
                self.etcd.start(member)
            else:
                self.etcd.signal(member, signal.SIGCONT)

    async def stop(self) -> None:
        self.heal()
        for process in reversed(self.processes.values()):
            await process.stop()
        for process in self.processes.values():
            await self._clean(process)

    async def _clean(self, process: Process) -> None:
        cleaning, reading = forked.start(
            ["cleanup", "--apply"], process.environment, self.directory / "log", process.host.namespace
        )
        await asyncio.to_thread(forked.output, reading)
        await asyncio.to_thread(cleaning.join, START_SECONDS)
        cleaning.close()


@contextlib.contextmanager
def hosts_of_a_lab(*names: str) -> Iterator[dict[str, Host]]:
    """On a bridge in a network namespace of the test's own."""
    with fresh_host():
        ip("link", "add", "lan", "type", "bridge")
        ip("addr", "add", "10.77.0.1/24", "dev", "lan")
        ip("link", "set", "lan", "up")
        hosts: dict[str, Host] = {}
        try:
            for number, name in enumerate(names, 10):
                hosts[name] = Host(name, number)
            yield hosts
        finally:
            for host in hosts.values():
                host.machine.kill()


@contextlib.contextmanager
def laboratory(directory: Path, layout: Mapping[str, Part] = ONE_HOST, members: int = 3) -> Iterator[Lab]:
    """A lab with all its hosts, and an etcd of so many members that runs; the processes are yet to be started."""
    names = [f"etcd-{number}" for number in range(members)]
    with hosts_of_a_lab(*names, *layout) as hosts:
        stores = {hosts[name].address: hosts[name].inside for name in names}
        with etcdlab.cluster(members, ("--quota-backend-bytes", str(QUOTA_BYTES)), hosts=stores) as etcd:
            yield Lab(directory, hosts, etcd, layout)


@contextlib.asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """What takes longer has hung."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(f"it has hung for {time.monotonic() - began:.1f} seconds") from None
