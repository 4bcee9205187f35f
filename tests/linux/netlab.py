"""A host of its own for network tests: a fresh network namespace, with processes in others as containers.

Nothing that these tests do can meet the networks of the real host, or be met by its firewall.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from portlayer.model.addresses import mac_of
from portlayer.model.execution import replace
from portlayer.model.names import new_id
from portlayer.model.network import EndpointSpec, NetworkSpec, Port, Subnet
from portlayer.substrates.linux.live import make_directories
from portlayer.substrates.linux.netns import HomeNamespace
from portlayer.substrates.linux.network import LinuxNetwork
from portlayer.substrates.linux.paths import Paths

R = TypeVar("R")
_CLONE_NEWNET = 0x40000000
WEST, EAST = "10.98.0.1", "10.98.0.2"
PATIENCE = 20.0
IMPATIENCE = 0.4  # how long what must not be reached is tried


@contextmanager
def fresh_host() -> Iterator[None]:
    """The calling thread, and what it starts, are in a new network namespace."""
    home = HomeNamespace()
    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with home.visit(here):
            assert ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            ip("link", "set", "lo", "up")
            yield
    finally:
        os.close(here)
        home.close()


@contextmanager
def two_hosts() -> Iterator[dict[str, str]]:
    """The calling thread is on a new host, west, that has a wire to another one, east: at WEST and EAST. The files of
    their network namespaces."""
    with fresh_host():
        machine = Machine()
        try:
            ip("link", "add", "east", "type", "veth", "peer", "name", "west", "netns", str(machine.pid))
            ip("addr", "add", f"{WEST}/24", "dev", "east")
            machine.ip("addr", "add", f"{EAST}/24", "dev", "west")
            for run, link in ((ip, "east"), (machine.ip, "west"), (machine.ip, "lo")):
                run("link", "set", link, "up")
            yield {name: f"/proc/{pid}/ns/net" for name, pid in (("west", os.getpid()), ("east", machine.pid))}
        finally:
            machine.kill()


def ip(*args: str, pid: int | None = None) -> Any:
    """Run ip(8), in the namespace of *pid*; its JSON."""
    inside = ["nsenter", "-t", str(pid), "-n"] if pid else []
    output = subprocess.run([*inside, "ip", "-j", *args], check=True, capture_output=True).stdout
    return json.loads(output or "[]")


def links() -> set[str]:
    return {link["ifname"] for link in ip("link", "show")}


def nft(command: str) -> str:
    return subprocess.run(["nft", command], check=True, capture_output=True, text=True).stdout


def until(condition: Callable[[], object]) -> None:
    """Wait for *condition*."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


class Machine:
    """A process in a network namespace of its own. Sockets of it are made here, and used from outside."""

    def __init__(self) -> None:
        self.id, self.incarnation = new_id(), new_id()
        self.process = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        self.pid = self.process.pid
        ours = Path("/proc/self/ns/net").stat()
        until(lambda: Path(f"/proc/{self.pid}/ns/net").stat().st_ino != ours.st_ino)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ip(self, *args: str) -> Any:
        return ip(*args, pid=self.pid)

    def link(self, name: str) -> Any:
        return next((link for link in self.ip("addr", "show") if link["ifname"] == name), None)

    def inside(self, work: Callable[[], R]) -> R:
        """*work*, done by a thread in the namespace."""

        def there() -> R:
            home = HomeNamespace()
            descriptor = home.open(self.pid)
            try:
                with home.visit(descriptor):
                    return work()
            finally:
                os.close(descriptor)
                home.close()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(there).result()

    def listen(self, port: int, address: str = "0.0.0.0") -> socket.socket:
        return self.inside(lambda: listen(port, address))

    def reach(self, server: socket.socket, address: str, port: int) -> str:
        """Connect to *address* and exchange a byte with what listens on *server*; the client's address it saw."""
        return reach(server, self.inside(lambda: client(PATIENCE, address)), address, port)

    def fails_to_reach(self, address: str, port: int) -> bool:
        return fails_to_reach(self.inside(lambda: client(IMPATIENCE, address)), address, port)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def client(patience: float = PATIENCE, address: str = "") -> socket.socket:
    """One that can connect to what is like *address*."""
    made = socket.socket(family(address), socket.SOCK_STREAM)
    made.settimeout(patience)
    return made


def listen(port: int, address: str = "0.0.0.0") -> socket.socket:
    server = socket.create_server((address, port), family=family(address))
    server.settimeout(PATIENCE)
    return server


def reach(server: socket.socket, connecting: socket.socket, address: str, port: int) -> str:
    with connecting:
        connecting.connect((address, port))
        accepted, (peer, *_) = server.accept()
        with accepted:
            connecting.sendall(b"!")
            assert accepted.recv(1) == b"!"
            return str(peer)


def fails_to_reach(connecting: socket.socket, address: str, port: int) -> bool:
    with connecting:
        try:
            connecting.connect((address, port))
        except OSError:
            return True
    return False


class Lab:
    """Machines, and the values that the driver is called with."""

    def __init__(self, directory: Path) -> None:
        self.paths = Paths(state=directory / "state", run=directory / "run", instance="7e57ab01")
        self.machines: list[Machine] = []
        make_directories(self.paths)

    def close(self) -> None:
        for machine in self.machines:
            machine.kill()

    def machine(self) -> Machine:
        """One that the driver knows as an incarnation."""
        machine = Machine()
        self.machines.append(machine)
        directory = self.paths.incarnation(machine.incarnation)
        directory.mkdir()
        (directory / "pid").write_text(str(machine.pid))
        return machine

    def outside(self) -> Machine:
        """A machine beyond the host, at 198.51.100.2 and 2001:db8::2; the host is 198.51.100.1 and 2001:db8::1 there.

        It knows no way to containers.
        """
        machine = Machine()
        self.machines.append(machine)
        ip("link", "add", "uplink", "type", "veth", "peer", "name", "up0", "netns", str(machine.pid))
        ip("addr", "add", "198.51.100.1/30", "dev", "uplink")
        ip("addr", "add", "2001:db8::1/64", "dev", "uplink", "nodad")
        ip("link", "set", "uplink", "up")
        machine.ip("addr", "add", "198.51.100.2/30", "dev", "up0")
        machine.ip("addr", "add", "2001:db8::2/64", "dev", "up0", "nodad")
        machine.ip("link", "set", "up0", "up")
        return machine


@contextmanager
def lab_in(directory: Path) -> Iterator[Lab]:
    """A lab on a fresh host, on which nothing is left behind."""
    with fresh_host():
        lab = Lab(directory)
        before = links()
        yield lab
        lab.close()
        until(lambda: links() == before)
        assert nft("list tables") == ""


@asynccontextmanager
async def driver_of(lab: Lab, instance: str = "") -> AsyncIterator[LinuxNetwork]:
    """A driver that is started, and leaves nothing behind: of the lab's own port layer, or of another *instance*."""
    driver = LinuxNetwork(replace(lab.paths, instance=instance or lab.paths.instance))
    features = await driver.start()
    assert features["nftables"]
    yield driver
    await driver.purge()
    assert await driver.leftovers() == []
    await driver.close()


async def plug(driver: LinuxNetwork, machine: Machine, net: NetworkSpec, last: int, *ports: Port) -> EndpointSpec:
    """Make *net* where it is not there, and give *machine* an endpoint in it."""
    made = endpoint(net, last, *ports)
    await driver.make_network(net)
    await driver.plug(machine.id, machine.incarnation, made, net)
    if ports:
        await driver.publish(machine.id, made)
    return made


def network(third: int = 1, *, ipv6: bool = False, **fields: Any) -> NetworkSpec:
    """A network 10.210.<third>.0/24, and fd00:210:<third>::/64."""
    subnets = [Subnet(subnet=f"10.210.{third}.0/24", gateway=f"10.210.{third}.1")]
    if ipv6:
        subnets.append(Subnet(subnet=f"fd00:210:{third}::/64", gateway=f"fd00:210:{third}::1"))
    return NetworkSpec(id=new_id(), name=f"n{third}", type="bridge", subnets=tuple(subnets), created_at="", **fields)


def endpoint(net: NetworkSpec, last: int, *ports: Port) -> EndpointSpec:
    """A bound endpoint with address <last> of each subnet of *net*."""
    identity, gateway = new_id(), str(net.subnets[0].gateway)
    gateway6 = str(net.subnets[1].gateway) if net.ipv6 else ""
    return EndpointSpec(
        id=identity,
        network=net.id,
        network_name=net.name,
        mac_address=mac_of(identity),
        ports=ports,
        bound=True,
        address=gateway.removesuffix("1") + str(last),
        prefix_length=24,
        gateway=gateway,
        address6=f"{gateway6.removesuffix('1')}{last}" if gateway6 else "",
        prefix_length6=64 if gateway6 else 0,
        gateway6=gateway6,
    )
