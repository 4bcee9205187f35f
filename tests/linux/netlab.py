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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from portlayer.model.addresses import mac_of
from portlayer.model.names import new_id
from portlayer.model.network import EndpointSpec, NetworkSpec, Port, Subnet
from portlayer.substrates.linux.netns import HomeNamespace
from portlayer.substrates.linux.paths import Paths

R = TypeVar("R")
_CLONE_NEWNET = 0x40000000
PATIENCE = 5.0
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

    def listen(self, port: int) -> socket.socket:
        return self.inside(lambda: listen(port))

    def reach(self, server: socket.socket, address: str, port: int) -> str:
        """Connect to *address* and exchange a byte with what listens on *server*; the client's address it saw."""
        return reach(server, self.inside(client), address, port)

    def fails_to_reach(self, address: str, port: int) -> bool:
        return fails_to_reach(self.inside(lambda: client(IMPATIENCE)), address, port)


def client(patience: float = PATIENCE) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.settimeout(patience)
    return made


def listen(port: int, address: str = "0.0.0.0") -> socket.socket:
    server = socket.create_server((address, port))
    server.settimeout(PATIENCE)
    return server


def reach(server: socket.socket, connecting: socket.socket, address: str, port: int) -> str:
    with connecting:
        connecting.connect((address, port))
        accepted, (peer, _) = server.accept()
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

    def close(self) -> None:
        for machine in self.machines:
            machine.kill()

    def machine(self) -> Machine:
        """One that the driver knows as an incarnation."""
        machine = Machine()
        self.machines.append(machine)
        directory = self.paths.incarnation(machine.incarnation)
        directory.mkdir(parents=True)
        (directory / "pid").write_text(str(machine.pid))
        return machine

    def outside(self) -> Machine:
        """A machine beyond the host, at 198.51.100.2; the host is 198.51.100.1 there. It knows no way to containers."""
        machine = Machine()
        self.machines.append(machine)
        ip("link", "add", "uplink", "type", "veth", "peer", "name", "up0", "netns", str(machine.pid))
        ip("addr", "add", "198.51.100.1/30", "dev", "uplink")
        ip("link", "set", "uplink", "up")
        machine.ip("addr", "add", "198.51.100.2/30", "dev", "up0")
        machine.ip("link", "set", "up0", "up")
        return machine


def network(third: int = 1, **fields: Any) -> NetworkSpec:
    """A network 10.210.<third>.0/24."""
    subnet = Subnet(subnet=f"10.210.{third}.0/24", gateway=f"10.210.{third}.1")
    return NetworkSpec(id=new_id(), name=f"n{third}", type="bridge", subnets=(subnet,), created_at="", **fields)


def endpoint(net: NetworkSpec, last: int, *ports: Port) -> EndpointSpec:
    """A bound endpoint with address <last> of *net*."""
    identity, gateway = new_id(), str(net.subnets[0].gateway)
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
    )
