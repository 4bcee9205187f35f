"""`portlayer serve` on this host, in directories of its own, which leave nothing."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import images
import pytest
from cli.conftest import SECONDS, Cli, serving
from e2e.hostview import HostView


class Served:
    """An instance in *directory*: its command line, and its server, which can be ended and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cli = Cli(directory)
        self.host = self.cli.host
        self.view = HostView(directory)
        self.server: subprocess.Popen[bytes] | None = None

    def serve(self, environment: dict[str, str] | None = None, options: Sequence[str] = ()) -> None:
        """Start the server, with more in its environment or on its command line; it is ready afterwards."""
        self.server = serving(self.cli, environment, options)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send the server a signal that ends it; how it ended."""
        assert self.server is not None
        with self.server as server:
            self.server = None
            server.send_signal(number)
            return server.wait(SECONDS)

    def close(self) -> None:
        """Whatever has happened, nothing is left."""
        if self.server is not None:
            self.end()
        self.cli.ok("cleanup", "--apply")


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
