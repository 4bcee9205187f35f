"""Where the demo's processes run: this host, or two that are network namespaces, with a wire between and an etcd."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PORTLAYER = Path(sys.executable).with_name("portlayer")
ADDRESSES = {"west": "10.98.0.1", "east": "10.98.0.2"}
"""Each host's own, on the wire between them."""
_ETCD_SECONDS = 30.0


@dataclass(frozen=True)
class Host:
    """A host with directories of its own. inside: what starts a command there, where that is not here."""

    directory: Path
    inside: Sequence[str] = ()

    @property
    def environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if name != "PORTLAYER_HOST"}
        places = {"STATE": self.directory / "state", "RUN": self.directory / "run"}
        return mine | {f"PORTLAYER_{name}": str(path) for name, path in places.items()}

    @property
    def address(self) -> str:
        """Where clients reach its port layer."""
        return f"unix://{self.directory}/run/portlayer.sock"

    def command(self, *words: str) -> list[str]:
        """`portlayer` with *words*, there."""
        return [*self.inside, str(PORTLAYER), *words]

    def take_key(self, other: Host) -> None:
        """Be of the same port layer as *other*: have its host key."""
        (self.directory / "state").mkdir(exist_ok=True)
        shutil.copy(other.directory / "state" / "host.key", self.directory / "state" / "host.key")


@contextlib.contextmanager
def one_host(directory: Path) -> Iterator[dict[str, Host]]:
    """This one."""
    yield {"local": Host(directory)}


@contextlib.contextmanager
def two_hosts(directory: Path) -> Iterator[dict[str, Host]]:
    """West, on which an etcd runs too, and east. Nobody but them is on the wire, and it ends with them."""
    with contextlib.ExitStack() as closing:
        holders = {name: closing.enter_context(_namespace()) for name in ADDRESSES}
        inside = {name: ("nsenter", "-t", str(holder.pid), "-n") for name, holder in holders.items()}
        peer = ("peer", "name", "wire", "netns", str(holders["east"].pid))
        _run(*inside["west"], "ip", "link", "add", "wire", "type", "veth", *peer)
        for name, address in ADDRESSES.items():
            _run(*inside[name], "ip", "addr", "add", f"{address}/24", "dev", "wire")
            for link in ("lo", "wire"):
                _run(*inside[name], "ip", "link", "set", link, "up")
            (directory / name).mkdir()
        closing.enter_context(_etcd(directory, inside["west"]))
        yield {name: Host(directory / name, words) for name, words in inside.items()}


@contextlib.contextmanager
def _namespace() -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds a network namespace of its own, until its input ends."""
    command = ("unshare", "-n", "sh", "-c", "echo; exec cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder


@contextlib.contextmanager
def _etcd(directory: Path, inside: Sequence[str]) -> Iterator[None]:
    url = f"http://{ADDRESSES['west']}:2379"
    command = [*inside, "etcd", "--data-dir", str(directory / "etcd"), "--log-level", "error"]
    command += ["--listen-client-urls", url, "--advertise-client-urls", url]
    command += ["--listen-peer-urls", "http://127.0.0.1:2380"]
    with (directory / "etcd.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as etcd:
        try:
            _wait_for(inside, url)
            yield
        finally:
            etcd.kill()


def _wait_for(inside: Sequence[str], url: str) -> None:
    asking = [*inside, "etcdctl", "--endpoints", url, "endpoint", "health"]
    until = time.monotonic() + _ETCD_SECONDS
    while subprocess.run(asking, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"}, check=False).returncode:
        if time.monotonic() > until:
            raise SystemExit("etcd did not start")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
