"""The orderly end of a real server: what is told, what is finished, from where streams go on, and how long it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import COMMAND, SECONDS, Cli, serving, stop

from portlayer.client import Steps, SyncPortLayer, connect, connect_sync
from portlayer.model.errors import PortlayerError, Unavailable

UNDER_WAY = re.compile(rb'under_way{call="execution/(commit|compose)"} 1')
STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.ok("cleanup", "--apply")


def configured(cli: Cli, text: str) -> tuple[str, str]:
    (cli.directory / "config.toml").write_text(text)
    return "--config", str(cli.directory / "config.toml")


def get(cli: Cli, path: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of a request on a connection of its own."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect(cli.host.removeprefix("unix://"))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return int(first.split()[1]), headers, json.loads(body) if body[:1] == b"{" else body


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(server: subprocess.Popen[bytes]) -> int:
    with server:
        return server.wait(SECONDS)


def running(pl: SyncPortLayer, archive: bytes, *command: str) -> None:
    pl.storage.import_image(archive)
    pl.execution.commit(Steps().create("busybox", *command, name="one").set_state("running"))


def test_readiness_goes_first_and_what_was_begun_is_finished(fresh: Cli, archive: bytes) -> None:
    server = serving(fresh, options=configured(fresh, "[drain]\nnoticeSeconds = 3\nseconds = 30\n"))
    with connect_sync(host=fresh.host, retries=0) as pl:
        running(pl, archive, "sh", "-c", STUBBORN)
        stopping = pl.execution.set_state(pl.execution.get_container("one"), "stopped", timeout_seconds=8)
        done: list[Any] = []
        commit = threading.Thread(target=lambda: done.append(pl.execution.commit(stopping)))
        commit.start()
        until(lambda: UNDER_WAY.search(get(fresh, "/metrics")[2]))
        assert get(fresh, "/readyz")[0] == 200
        server.send_signal(signal.SIGTERM)
        until(lambda: get(fresh, "/readyz")[0] == 503)
        assert get(fresh, "/readyz")[2]["checks"] == {"process": "stopping"}
        assert get(fresh, "/v1/info")[0] == 200, "who has not noticed yet is answered"
        until(lambda: get(fresh, "/v1/info")[0] == 503)
        status, headers, problem = get(fresh, "/v1/vchs/default/execution/containers")
        assert (status, problem["code"]) == (503, "Unavailable")
        assert int(headers["retry-after"]) >= 1
        assert get(fresh, "/healthz")[0] == 200
        assert not done
        commit.join(SECONDS)
        assert done[0].state == "stopped"
    assert ended(server) == 0


async def test_streams_end_with_a_cursor_from_which_they_go_on(fresh: Cli, archive: bytes) -> None:
    server = await asyncio.to_thread(serving, fresh)
    script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.01; done"
    async with connect(host=fresh.host) as pl:
        with connect_sync(host=fresh.host) as blocking:
            await asyncio.to_thread(running, blocking, archive, "sh", "-c", script)
        attached: list[bytes] = []
        logged: list[bytes] = []
        cursors: dict[str, Any] = {}
        both = asyncio.Event()

        async def attach() -> None:
            async with pl.interaction.attach("one", logs=True) as attachment:
                with pytest.raises(Unavailable):
                    async for output in attachment:
                        attached.append(output.data)
                        both.set()
                cursors["attach"] = attachment.cursor

        async def follow() -> None:
            with pytest.raises(Unavailable):
                async for chunk in pl.interaction.logs("one", follow=True):
                    logged.append(chunk.data)
                    cursors["logs"] = chunk.cursor

        async def subscribe() -> None:
            with contextlib.suppress(Unavailable):
                async for event in pl.service.events(since="0"):
                    cursors["events"] = event.cursor

        reading = [asyncio.create_task(work()) for work in (attach, follow, subscribe)]
        async with asyncio.timeout(SECONDS):
            await both.wait()
            while len(cursors) < 2:
                await asyncio.sleep(0.01)
            server.send_signal(signal.SIGTERM)
            await asyncio.gather(*reading)
        assert await asyncio.to_thread(ended, server) == 0
    server = await asyncio.to_thread(serving, fresh)
    async with connect(host=fresh.host) as pl, asyncio.timeout(SECONDS):
        async with pl.interaction.attach("one", cursor=cursors["attach"]) as attachment:
            attached += [output.data async for output in attachment]
            assert attachment.exit_code == 0
        logged += [chunk.data async for chunk in pl.interaction.logs("one", cursor=cursors["logs"])]
        async for event in pl.service.events(since=cursors["events"]):
            assert event.event.type == "container.exited", "none twice, none left out"
            break
    expected = b"".join(b"line %d\n" % number for number in range(300))
    assert b"".join(attached) == expected
    assert b"".join(logged) == expected
    assert await asyncio.to_thread(stop, server) == 0


@pytest.mark.parametrize("again", [False, True], ids=["in its time", "at once, the second time"])
def test_the_end_is_bounded_and_a_second_signal_is_the_end(fresh: Cli, archive: bytes, again: bool) -> None:
    hang = {"PORTLAYER_FAILPOINTS": "commit.before.Update=hang"}
    options = configured(fresh, f"[drain]\nseconds = {300 if again else 0.2}\n")
    server = serving(fresh, hang, options)
    with connect_sync(host=fresh.host, retries=0) as pl:
        running(pl, archive, "sleep", "1000")
        handle = pl.execution.set_resources(pl.execution.get_container("one"), memory_bytes=64 << 20)
        failures: list[Exception] = []

        def commit() -> None:
            try:
                pl.execution.commit(handle)
            except PortlayerError as error:
                failures.append(error)

        thread = threading.Thread(target=commit)
        thread.start()
        until(lambda: b'portlayer_commit_phase_seconds_count{phase="transaction 1"} 2' in get(fresh, "/metrics")[2])
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        until(lambda: get(fresh, "/readyz")[0] == 503)
        if again:
            server.send_signal(signal.SIGTERM)
        assert ended(server) == (-signal.SIGTERM if again else 0)
        assert time.monotonic() - began < 15
        thread.join(SECONDS)
        assert isinstance(failures[0], Unavailable)
    server = serving(fresh)
    with connect_sync(host=fresh.host) as pl:
        assert pl.execution.inspect_container("one").state == "running"
        assert pl.execution.inspect_container("one").resources.memory_bytes is None, "undone by the next"
        done = pl.execution.commit(handle)
        assert done.revision == 2
    assert stop(server) == 0


def test_callers_of_a_socket_that_is_kept_wait_for_the_next_server(fresh: Cli) -> None:
    run = fresh.directory / "run"
    run.mkdir()
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as late:
        listening.bind(str(run / "portlayer.sock"))
        listening.listen()
        script = f'exec 3<&{listening.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" serve'
        for caller in (None, late):
            server = subprocess.Popen(
                ["bash", "-c", script, COMMAND],
                env=fresh.environment,
                pass_fds=[listening.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert server.stdout is not None
            assert server.stdout.readline()
            if caller is not None:
                caller.settimeout(SECONDS)
                assert caller.recv(100).split()[1] == b"200"
            assert stop(server) == 0
            if caller is None:
                late.connect(str(run / "portlayer.sock"))
                late.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("text", ["[drain]\nseconds = -1", "[drain]\nnoticeSeconds = 1e9", "[drain]\nbogus = 1"])
def test_settings_that_cannot_be(fresh: Cli, text: str) -> None:
    done = fresh("serve", *configured(fresh, text))
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert "drain" in done.err
