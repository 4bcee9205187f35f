"""Real etcd clusters for tests: processes on loopback, free ports, a directory of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from portlayer.stores.etcd_client import Access, Client
from portlayer.stores.etcd_messages import CLASSES

START_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 0.02
PORTS = range(20_000, 32_000)
"""Below those that the kernel gives away by itself, and beyond those that tests name."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has just now, and that nobody is given by chance who connects somewhere."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as trying, contextlib.suppress(OSError):
            trying.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no ports are free")


@dataclass
class Member:
    """One etcd: its ports, its directory, and its process while it runs. inside: what starts a command on *host*."""

    name: str
    client: int
    peer: int
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    host: str = "127.0.0.1"
    inside: Sequence[str] = ()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.client}"

    @property
    def peer_url(self) -> str:
        return f"http://{self.host}:{self.peer}"


@dataclass
class Cluster:
    """Members of one etcd cluster. options: for all of them; scheme: https where the options say so. hosts: where they
    are, by address, with the command that starts something there; none: all on loopback."""

    directory: Path
    size: int = 1
    options: Sequence[str] = ()
    scheme: str = "http"
    hosts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.hosts:
            for number, (host, inside) in enumerate(self.hosts.items()):
                name = f"m{number}"
                self.members.append(Member(name, 2379, 2380, self.directory / name, host=host, inside=inside))
            return
        ports = free_ports(2 * self.size)
        for number in range(self.size):
            name = f"m{number}"
            self.members.append(Member(name, ports[2 * number], ports[2 * number + 1], self.directory / name))

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.address for member in self.members)

    @property
    def access(self) -> Access:
        return Access(endpoints=self.endpoints)

    def start(self, *members: Member) -> None:
        """Start *members* (all, if none are named), and wait until they take connections."""
        started = members or tuple(self.members)
        for member in started:
            self._launch(member)
        for member in started:
            self._wait(member)

    def _launch(self, member: Member) -> None:
        assert member.process is None
        peers = ",".join(f"{one.name}={one.peer_url}" for one in self.members)
        client, peer = f"{self.scheme}://{member.address}", member.peer_url
        command = [
            *member.inside,
            "etcd",
            "--name",
            member.name,
            "--data-dir",
            str(member.directory),
            "--log-level",
            "error",
        ]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", peers, "--initial-cluster-token", str(self.directory)]
        command += ["--heartbeat-interval", "50", "--election-timeout", "500", *self.options]
        with (self.directory / f"{member.name}.log").open("ab") as log:
            member.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def _wait(self, member: Member) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert member.process is not None
            assert member.process.poll() is None, self.log(member)
            with contextlib.suppress(OSError), socket.create_connection((member.host, member.client), timeout=1):
                return
            time.sleep(LOOK_AGAIN_SECONDS)
        raise AssertionError(f"{member.name} does not take connections: {self.log(member)}")

    def log(self, member: Member) -> str:
        return (self.directory / f"{member.name}.log").read_text()[-2000:]

    def signal(self, member: Member, number: signal.Signals) -> None:
        """SIGSTOP, SIGCONT and the like."""
        assert member.process is not None
        os.kill(member.process.pid, number)

    def kill(self, *members: Member) -> None:
        """SIGKILL to *members* (all, if none are named)."""
        for member in members or self.members:
            if member.process is not None:
                member.process.kill()
                member.process.wait()
                member.process = None

    async def leader(self) -> Member:
        """The member that leads, once there is one."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                for member in self.members:
                    if member.process is not None and await leads(member):
                        return member
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def control(self, *words: str) -> str:
        """What etcdctl answers to *words*."""
        environment = {**os.environ, "ETCDCTL_API": "3"}
        command = ["etcdctl", "--endpoints", ",".join(self.endpoints), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


async def leads(member: Member) -> bool:
    """Whether *member* says that it leads a cluster."""
    said = await asyncio.create_subprocess_exec(
        "etcdctl",
        *("--endpoints", member.address, "--command-timeout", "2s", "-w", "json", "endpoint", "status"),
        env={**os.environ, "ETCDCTL_API": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    out, _ = await said.communicate()
    if said.returncode != 0:
        return False
    status = json.loads(out)[0]["Status"]
    return status.get("leader", 0) == status["header"]["member_id"]


@contextlib.contextmanager
def cluster(
    size: int = 1, options: Sequence[str] = (), scheme: str = "http", hosts: Mapping[str, Sequence[str]] | None = None
) -> Iterator[Cluster]:
    """A cluster that runs; nothing of it is left behind."""
    directory = Path(tempfile.mkdtemp(prefix="portlayer-etcd-"))
    made = Cluster(directory, size, options, scheme, hosts or {})
    try:
        made.start()
        yield made
    finally:
        made.kill()
        shutil.rmtree(directory)


async def wipe(access: Access, prefix: str) -> None:
    """Remove all that is under *prefix*, so that no lease of it changes anything any more."""
    client = Client(access)
    start, end = f"{prefix}/".encode(), f"{prefix}0".encode()
    erase = CLASSES["RequestOp"](request_delete_range=CLASSES["DeleteRangeRequest"](key=start, range_end=end))
    await client.call("txn", CLASSES["TxnRequest"](success=[erase]))
    await client.close()
