"""The real command against a real server on this host, in directories of its own, which leave nothing.

What a test needs beforehand or looks at afterwards goes through the Python client, which is quicker than a process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import images
import pytest

from portlayer.client import SyncPortLayer, connect_sync

COMMAND = str(Path(sys.executable).with_name("portlayer"))
SECONDS = 60


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Cli:
    """`portlayer`, as a user of the port layer in *directory* runs it. inside: the command that starts it there."""

    directory: Path
    inside: tuple[str, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        mine = {"PORTLAYER_STATE": str(self.directory / "state"), "PORTLAYER_RUN": str(self.directory / "run")}
        others = {name: value for name, value in os.environ.items() if not name.startswith("PORTLAYER_")}
        return {**others, **mine}

    @property
    def host(self) -> str:
        return f"unix://{self.directory}/run/portlayer.sock"

    def start(self, *args: str, environment: dict[str, str] | None = None, **streams: Any) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        command = [*self.inside, COMMAND, *args]
        return subprocess.Popen(command, env={**self.environment, **(environment or {})}, **streams)

    def raw(
        self, *args: str, stdin: bytes = b"", environment: dict[str, str] | None = None
    ) -> tuple[int, bytes, bytes]:
        """Exit code, output and errors of a command."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with self.start(*args, environment=environment, **pipes) as process:
            out, err = process.communicate(stdin, SECONDS)
            return process.returncode, out, err

    def __call__(self, *args: str, **more: Any) -> Done:
        code, out, err = self.raw(*args, **more)
        return Done(code, out.decode(), err.decode())

    def several(self, *commands: Sequence[str]) -> list[Done]:
        """How commands ended that ran at once."""
        with ThreadPoolExecutor(len(commands)) as threads:
            return list(threads.map(lambda command: self(*command), commands))

    def ok(self, *args: str, **more: Any) -> str:
        """What a command that has to succeed prints."""
        done = self(*args, **more)
        assert done.code == 0, f"{args}: {done}"
        return done.out

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))


def serving(
    cli: Cli, environment: dict[str, str] | None = None, options: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """A server that has said that it is ready."""
    with (cli.directory / "log").open("ab") as log:
        server = cli.start("serve", *options, environment=environment, stdout=subprocess.PIPE, stderr=log)
    assert server.stdout is not None
    assert b"serves unix://" in server.stdout.readline(), (cli.directory / "log").read_text()
    return server


def stop(server: subprocess.Popen[bytes]) -> int:
    server.send_signal(signal.SIGTERM)
    with server:
        return server.wait(SECONDS)


@pytest.fixture(scope="session")
def archive() -> bytes:
    """An image archive."""
    return images.busybox_image()


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, archive: bytes) -> Iterator[Cli]:
    """The command, with a server that has the image busybox; afterwards nothing of it is on the host."""
    cli = Cli(tmp_path_factory.mktemp("pl"))
    server = serving(cli)
    try:
        with connect_sync(host=cli.host) as pl:
            pl.storage.import_image(archive)
        yield cli
    finally:
        code = stop(server)
        cli.ok("cleanup", "--apply")
    assert code == 0
    assert "Nothing" in cli.ok("cleanup")


@pytest.fixture(scope="module")
def pl(cli: Cli) -> Iterator[SyncPortLayer]:
    """The client of the same server."""
    with connect_sync(host=cli.host) as pl:
        yield pl
