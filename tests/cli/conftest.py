"""The real command against a real server on this host, in directories of its own, which leave nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import images

COMMAND = Path(sys.executable).with_name("portlayer")
SECONDS = 60


@dataclass(frozen=True)
class Cli:
    """`portlayer`, as a user of the port layer in *directory* runs it."""

    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        mine = {"PORTLAYER_STATE": str(self.directory / "state"), "PORTLAYER_RUN": str(self.directory / "run")}
        others = {name: value for name, value in os.environ.items() if not name.startswith("PORTLAYER_")}
        return {**others, **mine}

    def __call__(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [COMMAND, *args], env=self.environment, input=stdin, capture_output=True, timeout=SECONDS, check=False
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *args: str, stdin: bytes = b"") -> str:
        """What a call that has to succeed prints."""
        done = self(*args, stdin=stdin)
        assert done.returncode == 0, f"{args}: {done.returncode}, {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))

    def start(self, *args: str, **streams: Any) -> subprocess.Popen[bytes]:
        """A call that goes on."""
        return subprocess.Popen([COMMAND, *args], env=self.environment, **streams)


def serving(cli: Cli) -> subprocess.Popen[bytes]:
    """A server that has said that it is ready."""
    with (cli.directory / "log").open("ab") as log:
        server = cli.start("serve", stdout=subprocess.PIPE, stderr=log)
    assert server.stdout is not None
    assert b"serves unix://" in server.stdout.readline(), (cli.directory / "log").read_text()
    return server


def stop(server: subprocess.Popen[bytes]) -> int:
    server.send_signal(signal.SIGTERM)
    with server:
        return server.wait(SECONDS)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image archive, as a file."""
    path = tmp_path_factory.mktemp("image") / "busybox.tar"
    path.write_bytes(images.busybox_image())
    return path


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Iterator[Cli]:
    """The command, with a server that has the image busybox; afterwards nothing of it is on the host."""
    cli = Cli(tmp_path_factory.mktemp("pl"))
    server = serving(cli)
    try:
        cli.ok("image", "import", str(archive))
        yield cli
        if ids := cli.ok("ps", "-aq").split():
            cli.ok("rm", "-fv", *ids)
    finally:
        code = stop(server)
        cli.ok("cleanup", "--apply")
    assert code == 0
    assert "Nothing" in cli.ok("cleanup")
