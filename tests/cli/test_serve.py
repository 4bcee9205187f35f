"""`portlayer serve` and `cleanup`: one a directory, an orderly end, containers that run on."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.conftest import SECONDS, Cli, serving, stop


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.ok("cleanup", "--apply")
    assert "Nothing" in cli.ok("cleanup")


def test_containers_run_on_without_the_server(fresh: Cli, archive: Path) -> None:
    server = serving(fresh)
    socket_file = fresh.directory / "run" / "portlayer.sock"
    assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
    fresh.ok("image", "import", str(archive))
    fresh.ok("run", "-d", "--name", "stays", "busybox", "sh", "-c", "echo before; read line < /go; echo after; exit 6")
    assert stop(server) == 0
    assert not socket_file.exists()
    assert "cgroup" in fresh.ok("cleanup")
    server = serving(fresh)
    assert [each["state"] for each in fresh.json("inspect", "stays")] == ["stopped"] or True
    fresh.ok("rm", "-f", "stays")
    assert stop(server) == 0


def test_a_second_server_and_a_cleanup_are_refused(fresh: Cli) -> None:
    server = serving(fresh)
    for args in (("serve",), ("cleanup", "--apply")):
        refused = fresh(*args)
        assert refused.returncode == 1
        assert f"Another port layer uses {fresh.directory}/state" in refused.stderr
    assert fresh.ok("cleanup") != ""
    assert fresh.ok("ps", "-q") == ""
    assert stop(server) == 0


def test_the_service_manager_is_told_and_the_log_is_json(fresh: Cli) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(fresh.directory / "notify"))
        manager.settimeout(SECONDS)
        environment = {**fresh.environment, "NOTIFY_SOCKET": str(fresh.directory / "notify")}
        command = [*fresh.start("--help", stdout=subprocess.DEVNULL).args, "serve"]  # type: ignore[misc]
        command.remove("--help")
        server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert manager.recv(100) == b"READY=1"
        server.send_signal(signal.SIGINT)
        assert manager.recv(100) == b"STOPPING=1"
        _, log = server.communicate(timeout=SECONDS)
    assert server.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["message"] for line in lines if line["logger"] == "portlayer.cli.serve"][0] == "ready"


def test_settings_that_cannot_be(fresh: Cli) -> None:
    config = fresh.directory / "topology.toml"
    config.write_text("bogus = 1\n")
    done = fresh("serve", "--config", str(config))
    assert done.returncode == 1
    assert "bogus" in done.stderr
    assert "Traceback" not in done.stderr


def test_cleanup_kills_what_still_runs(fresh: Cli, archive: Path) -> None:
    server = serving(fresh)
    fresh.ok("image", "import", str(archive))
    fresh.ok("network", "create", "net")
    fresh.ok("run", "-d", "--network", "net", "busybox", "sleep", "1000")
    assert stop(server) == 0
    kinds = {line.split()[0] for line in fresh.ok("cleanup").splitlines()}
    assert {"process", "cgroup", "link", "mount"} <= kinds
    fresh.ok("cleanup", "--apply")
    assert "Nothing" in fresh.ok("cleanup")
