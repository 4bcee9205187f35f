"""`portlayer serve` on this host, in directories of its own, which leave nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import ClassVar

import etcdlab
import images
import pytest
from cli.conftest import SECONDS, Cli
from e2e import forked
from e2e.hostview import HostView
from linux.netlab import EAST, WEST, two_hosts

from portlayer.model.topology import COMPONENTS

PLACES = ("PORTLAYER_STATE", "PORTLAYER_RUN")


class Served:
    """An instance in *directory*: its command line, and its server, which can be ended and started again.

    near: what puts a container where the test is, and where others that are so put are. views: of all hosts.
    """

    socket = "portlayer.sock"
    near: Mapping[str, str] = {}

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cli = Cli(directory)
        self.host = self.cli.host
        self.view = HostView(directory)
        self.views = (self.view,)
        self._server: ForkServerProcess | None = None
        self._log = directory / "log"
        self._places = {name: self.cli.environment[name] for name in PLACES}

    def serve(self, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> None:
        """Start the server, with more in its environment or on its command line; it is ready afterwards."""
        self._server, reading = forked.start(["serve", *options], {**self._places, **(environment or {})}, self._log)
        assert b"serves unix://" in forked.output(reading, until=b"\n"), self._log.read_text()

    def move(self) -> None:
        """Where components move under way, one of them does."""

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the server a signal that ends it; how it ended."""
        assert self._server is not None
        assert self._server.pid is not None
        os.kill(self._server.pid, number)
        return self.ended()

    def ended(self) -> int:
        """How the server ended, which it does by itself."""
        assert self._server is not None
        code = forked.ended(self._server, SECONDS)
        self._server = None
        return code

    def close(self) -> None:
        """Whatever has happened, nothing is left."""
        if self._server is not None:
            self.end()
        self._clean(self._places)

    def _clean(self, places: Mapping[str, str], network: str = "") -> None:
        cleaning, reading = forked.start(["cleanup", "--apply"], places, self._log, network)
        said = forked.output(reading)
        assert forked.ended(cleaning, SECONDS) == 0, said


class ServedApart(Served):
    """As Served, with each component in a process of its own. Callers come in at the first, which has none."""

    layout: ClassVar[dict[str, Sequence[str]]] = {"door": (), **{name: (name,) for name in COMPONENTS}}

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.socket = f"{next(iter(self.layout))}.sock"
        self.host = f"unix://{directory}/run/{self.socket}"
        self._servers: dict[str, ForkServerProcess] = {}

    def serve(self, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> None:
        readings = [self._begin(name, environment, options) for name in self.layout]
        for reading in readings:
            self._wait_for(reading)

    def _begin(self, name: str, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> Connection:
        """Start one process, which says at what is returned that it is ready."""
        config = self.directory / "topology.toml"
        config.write_text("\n".join(self._topology()))
        command = ["serve", "--config", str(config), "--process", name, *options]
        self._servers[name], reading = forked.start(command, {**self._places, **(environment or {})}, self._log)
        return reading

    def _topology(self) -> list[str]:
        return [f"[processes.{name}]\ncomponents = {json.dumps(has)}" for name, has in self.layout.items()]

    def _wait_for(self, reading: Connection) -> None:
        assert b"serves unix://" in forked.output(reading, until=b"\n"), self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        for server in self._servers.values():
            assert server.pid is not None
            with contextlib.suppress(ProcessLookupError):  # its code tells of that
                os.kill(server.pid, number)
        return self.ended()

    def ended(self) -> int:
        """The highest of the codes with which they end."""
        codes = [abs(forked.ended(server, SECONDS)) for server in self._servers.values()]
        self._servers.clear()
        return max(codes)

    def close(self) -> None:
        if self._servers:
            self.end()
        super().close()


class ServedStorageApart(ServedApart):
    """As Served, with storage in a process of its own."""

    layout: ClassVar[dict[str, Sequence[str]]] = {"rest": COMPONENTS[1:], "storage": COMPONENTS[:1]}


class ServedMoving(ServedStorageApart):
    """As that one, and storage moves to another process under way."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.layout = dict(ServedStorageApart.layout)  # type: ignore[misc]

    def move(self) -> None:
        *_, before = self.layout
        del self.layout[before]
        os.kill(self._servers[before].pid or 0, signal.SIGTERM)
        assert forked.ended(self._servers.pop(before), SECONDS) == 0
        after = f"storage-{int(before.partition('-')[2] or 0) + 1}"
        self.layout[after] = COMPONENTS[:1]
        self._wait_for(self._begin(after))


class ServedOnTwoHosts(ServedApart):
    """On west, which is where the test is, and on east, where callers come in: hosts of their own, with an etcd."""

    layout: ClassVar[dict[str, Sequence[str]]] = {
        "west": COMPONENTS,
        "east": tuple(name for name in COMPONENTS if name in ("execution", "interaction")),
    }
    near: Mapping[str, str] = {"host": "west"}

    def __init__(self, directory: Path) -> None:
        self._whole = directory
        self._closing = contextlib.ExitStack()
        self._networks = self._closing.enter_context(two_hosts())
        self._etcd = self._closing.enter_context(etcdlab.cluster(hosts={WEST: ()}))
        self._hosts = {name: Cli(directory / name) for name in self.layout}
        for cli in self._hosts.values():
            (cli.directory / "state").mkdir(parents=True)
        super().__init__(directory / "west")
        self.socket = f"{directory}/east/run/east.sock"
        self.host = f"unix://{self.socket}"
        self.views = tuple(HostView(cli.directory) for cli in self._hosts.values())

    def serve(self, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> None:
        self._wait_for(self._begin("west", environment, options))
        keys = [cli.directory / "state" / "host.key" for cli in self._hosts.values()]
        shutil.copy(*keys)
        self._wait_for(self._begin("east", environment, options))

    def _begin(self, name: str, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> Connection:
        config = self._whole / "topology.toml"
        config.write_text("\n".join(self._topology()))
        command = ["serve", "--config", str(config), "--process", name, *options]
        places = {**self._places_on(name), **(environment or {})}
        self._servers[name], reading = forked.start(command, places, self._log, self._networks[name])
        return reading

    def _topology(self) -> list[str]:
        lines = ["[store]", 'kind = "etcd"', f"endpoints = {json.dumps(self._etcd.endpoints)}"]
        for name, address in (("west", WEST), ("east", EAST)):
            lines += [f"[processes.{name}]", f'host = "{name}"', f"components = {json.dumps(self.layout[name])}"]
            lines += [f'address = "https://{address}:7443"']
        return lines

    def _places_on(self, name: str) -> dict[str, str]:
        return {key: self._hosts[name].environment[key] for key in PLACES}

    def close(self) -> None:
        with self._closing:
            if self._servers:
                self.end()
            for name in self._hosts:
                self._clean(self._places_on(name), self._networks[name])


SERVED = {
    "all in one": Served,
    "each apart": ServedApart,
    "storage apart": ServedStorageApart,
    "two hosts": ServedOnTwoHosts,
    "changing under way": ServedMoving,
}
"""On real containers, the topologies that tests go through: `apart.cluster.TOPOLOGIES` has the same on memory."""


@pytest.fixture(scope="session")
def archive() -> bytes:
    """An image archive."""
    return images.busybox_image()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server that has nothing yet."""
    served = Served(tmp_path)
    try:
        served.serve()
        yield served
    finally:
        served.close()
