"""`portlayer serve` on this host, in directories of its own, which leave nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import images
import pytest
from cli.conftest import SECONDS, Cli
from e2e import forked
from e2e.hostview import HostView

from portlayer.model.topology import COMPONENTS


class Served:
    """An instance in *directory*: its command line, and its server, which can be ended and started again."""

    socket = "portlayer.sock"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cli = Cli(directory)
        self.host = self.cli.host
        self.view = HostView(directory)
        self._server: ForkServerProcess | None = None
        self._log = directory / "log"
        self._places = {name: self.cli.environment[name] for name in ("PORTLAYER_STATE", "PORTLAYER_RUN")}

    def serve(self, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> None:
        """Start the server, with more in its environment or on its command line; it is ready afterwards."""
        self._server, reading = forked.start(["serve", *options], {**self._places, **(environment or {})}, self._log)
        assert b"serves unix://" in forked.output(reading, until=b"\n"), self._log.read_text()

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
        cleaning, reading = forked.start(["cleanup", "--apply"], self._places, self._log)
        said = forked.output(reading)
        assert forked.ended(cleaning, SECONDS) == 0, said


class ServedApart(Served):
    """As Served, with each component in a process of its own. Callers come in at one that has none."""

    socket = "door.sock"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.host = f"unix://{directory}/run/{self.socket}"
        self._servers: dict[str, ForkServerProcess] = {}

    def serve(self, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> None:
        config = self.directory / "topology.toml"
        has = {"door": [], **{name: [name] for name in COMPONENTS}}
        config.write_text("\n".join(f"[processes.{name}]\ncomponents = {some}" for name, some in has.items()))
        readings = []
        for name in has:
            command = ["serve", "--config", str(config), "--process", name, *options]
            self._servers[name], reading = forked.start(command, {**self._places, **(environment or {})}, self._log)
            readings.append(reading)
        for reading in readings:
            assert b"serves unix://" in forked.output(reading, until=b"\n"), self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        for server in self._servers.values():
            assert server.pid is not None
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
