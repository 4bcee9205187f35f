"""The server's log: what each line is about, and what is never in it."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import SECONDS, Cli, serving, stop

from portlayer import scope, tracing
from portlayer.cli.logs import JsonFormatter, TextFormatter
from portlayer.client import Steps, connect_sync
from portlayer.model.errors import PortlayerError
from portlayer.tracing import Link

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRETS = ("hunter2", "open-sesame", "correct-horse", "swordfish", "pl_")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli.ok("cleanup", "--apply")


def lines(cli: Cli) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cli.directory / "log").read_text().splitlines()]


def test_lines_say_what_they_are_about_and_tell_no_secrets(fresh: Cli, archive: bytes) -> None:
    breaking = {"PORTLAYER_FAILPOINTS": "commit.done.Plug=raise;commit.undo.Prepare=log"}
    server = serving(fresh, breaking, ("--log-level", "debug", "--log-format", "json"))
    with connect_sync(host=fresh.host) as pl:
        pl.storage.import_image(archive)
        pl.network.create_network("net")
        pl.service.put_kv("password", b"open-sesame")
        assert pl.service.get_kv("password").value == b"open-sesame"
        token = json.loads(fresh.ok("token", "create", "alice", "--role", "user", "--vch", "default", "--json"))
        with connect_sync(host=fresh.host, token=token["secret"]) as alice:
            alice.execution.list()
        with connect_sync(host=fresh.host, token="swordfish") as nobody, pytest.raises(PortlayerError):
            nobody.execution.list()
        env = {"KEY": "hunter2"}
        steps = Steps().create("busybox", "sh", "-c", "echo correct-horse; sleep 1000", name="one", env=env)
        pl.execution.commit(steps.set_state("running"))
        steps = Steps().create("busybox", name="two", env=env).join_network("net").bind_network()
        with pytest.raises(PortlayerError):
            pl.execution.commit(steps.set_state("running"))
        handle = pl.execution.get_container("one")
        fresh.ok("inspect", "one")
        pl.execution.remove("one", force=True)
    assert stop(server) == 0
    text = (fresh.directory / "log").read_text()
    for secret in (*SECRETS, token["secret"], handle.sealed):
        assert secret not in text
    told = lines(fresh)
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in told)
    undoing = [line for line in told if line["message"] == "commit.undo.Prepare"]
    assert {line["vch"] for line in undoing} == {"default"}
    assert all(len(line["container"]) > 10 and len(line["trace"]) == 32 and line["request"] for line in undoing)
    requests = [line for line in told if line["message"] == "request"]
    assert len({line["trace"] for line in requests}) == len(requests), "one trace each"
    assert len({line["request"] for line in requests}) == len(requests)


def test_either_form_can_be_chosen(fresh: Cli) -> None:
    server = fresh.start("serve", "--log-format", "text", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    server.terminate()
    _, log = server.communicate(timeout=SECONDS)
    assert b" info    ready address=unix://" in log
    assert fresh("serve", "--log-format", "xml").code == 2


def test_fields_follow_the_flow_of_control() -> None:
    record = logging.makeLogRecord({"msg": "hello", "levelname": "INFO", "name": "n", "code": 7})
    with scope.scope(vch="a", request=""), tracing.entered(Link(TRACE, PARENT)), scope.scope(container="c"):
        inside = json.loads(JsonFormatter().format(record))
        text = TextFormatter().format(record)
        elsewhere = scope.apart(vch="b").run(JsonFormatter().format, record)
    outside = json.loads(JsonFormatter().format(record))
    expected = {"vch": "a", "container": "c", "trace": TRACE, "span": PARENT, "code": 7}
    assert {name: inside.get(name) for name in (*expected, "request")} == {**expected, "request": None}
    assert text.endswith(f"hello vch=a container=c trace={TRACE} span={PARENT} code=7")
    assert {"vch": "b"}.items() <= json.loads(elsewhere).items()
    assert "trace" not in json.loads(elsewhere)
    assert not {"vch", "container", "trace"} & outside.keys()


@pytest.mark.parametrize(
    ("header", "link"),
    [
        (f"00-{TRACE}-{PARENT}-01", Link(TRACE, PARENT, sampled=True)),
        (f"00-{TRACE}-{PARENT}-00", Link(TRACE, PARENT, sampled=False)),
        (f"cc-{TRACE}-{PARENT}-03-what-comes-later", Link(TRACE, PARENT, sampled=True)),
        (f"00-{TRACE}-{PARENT}-01-more", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{PARENT}-01", None),
        ("", None),
        (None, None),
    ],
)
def test_traceparent_is_read_as_w3c_says(header: str | None, link: Link | None) -> None:
    assert tracing.read(header) == link
    if link is not None:
        assert tracing.read(link.header) == link
