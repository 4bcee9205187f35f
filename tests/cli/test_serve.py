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
from cli.conftest import COMMAND, SECONDS, Cli, serving, stop

from portlayer.client import Steps, connect_sync


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.ok("cleanup", "--apply")


def test_containers_run_on_without_the_server_and_cleanup_ends_them(fresh: Cli, archive: bytes) -> None:
    script = "echo before; until [ -e /jar/go ]; do sleep 0.02; done; echo after; exit 6"
    server = serving(fresh)
    with connect_sync(host=fresh.host) as pl:
        pl.storage.import_image(archive)
        pl.network.create_network("net")
        jar = pl.storage.create_volume("jar").id
        steps = Steps().create("busybox", "sh", "-c", script, name="stays").join_volume("jar", "/jar")
        pl.execution.commit(steps.set_state("running"))
        pl.execution.commit(
            Steps().create("busybox", "sleep", "1000").join_network("net").bind_network().set_state("running")
        )
    socket_file = fresh.directory / "run" / "portlayer.sock"
    assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
    assert stop(server) == 0
    assert not socket_file.exists()

    (fresh.directory / "state" / "volumes" / jar / "data" / "go").touch()
    server = serving(fresh)
    with connect_sync(host=fresh.host) as pl:
        assert pl.execution.wait("stays", timeout_seconds=20).exit_code == 6
        assert b"".join(chunk.data for chunk in pl.interaction.logs("stays")) == b"before\nafter\n"
        assert len(pl.execution.list(state="running")) == 1
    assert stop(server) == 0

    kinds = {line.split()[0] for line in fresh.ok("cleanup").splitlines()}
    assert {"process", "cgroup", "link", "mount"} <= kinds
    fresh.ok("cleanup", "--apply")
    assert "Nothing" in fresh.ok("cleanup")


def test_an_attached_run_is_told_that_the_server_stops(fresh: Cli, archive: bytes) -> None:
    server = serving(fresh)
    with connect_sync(host=fresh.host) as pl:
        pl.storage.import_image(archive)
    script = ["sh", "-c", "echo ready; exec sleep 1000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with fresh.start("run", "--rm", "busybox", *script, **pipes) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        assert stop(server) == 0
        _, complaint = running.communicate(timeout=SECONDS)
    assert running.returncode == 125
    assert complaint.startswith(b"portlayer: The port layer is stopping")
    assert len(complaint.splitlines()) == 1
    assert "process" in fresh.ok("cleanup")


def test_a_second_server_and_a_cleanup_are_refused(fresh: Cli) -> None:
    server = serving(fresh)
    for args in (("serve",), ("cleanup", "--apply")):
        refused = fresh(*args)
        assert refused.code == 1
        assert f"Another port layer uses {fresh.directory}/state" in refused.err
    assert fresh.ok("cleanup", "--json") != ""
    assert stop(server) == 0


def test_the_service_manager_is_told_and_the_log_is_json(fresh: Cli) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(fresh.directory / "notify"))
        manager.settimeout(SECONDS)
        told = {"NOTIFY_SOCKET": str(fresh.directory / "notify")}
        server = fresh.start("serve", environment=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert manager.recv(100) == b"READY=1"
        server.send_signal(signal.SIGINT)
        assert manager.recv(100) == b"STOPPING=1"
        _, log = server.communicate(timeout=SECONDS)
    assert server.returncode == 0
    messages = [json.loads(line)["message"] for line in log.splitlines()]
    assert messages[0] == "ready"
    assert messages[-1] == "stopped; containers run on"


def test_settings_that_cannot_be(fresh: Cli) -> None:
    config = fresh.directory / "topology.toml"
    config.write_text("bogus = 1\n")
    done = fresh("serve", "--config", str(config))
    assert done.code == 1
    assert "bogus" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_socket_of_the_service_manager_is_served_and_left_to_it(fresh: Cli) -> None:
    run = fresh.directory / "run"
    run.mkdir()
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as early:
        listening.bind(str(run / "portlayer.sock"))
        listening.listen()
        early.connect(str(run / "portlayer.sock"))
        early.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        script = f'exec 3<&{listening.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" serve'
        with (fresh.directory / "log").open("wb") as log:
            server = subprocess.Popen(
                ["bash", "-c", script, COMMAND],
                env=fresh.environment,
                pass_fds=[listening.fileno()],
                stdout=log,
                stderr=log,
            )
        early.settimeout(SECONDS)
        assert early.recv(100).split()[1] == b"200", "who came before the server did is answered"
        assert stop(server) == 0
        assert (run / "portlayer.sock").exists()


def test_the_watchdog_is_fed_while_it_serves(fresh: Cli) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(fresh.directory / "notify"))
        manager.settimeout(SECONDS)
        told = {"NOTIFY_SOCKET": str(fresh.directory / "notify"), "WATCHDOG_USEC": "20000"}
        server = serving(fresh, told)
        words = [manager.recv(100) for _ in range(5)]
        assert words.count(b"WATCHDOG=1") >= 3
        assert stop(server) == 0
