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


class Served:
    """An instance in *directory*: its command line, and its server, which can be ended and started again."""

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
