"""One commit is one trace, through as many processes as it takes; and a collector that is away hurts nobody."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.conftest import Cli, serving, stop
from otlplab import Collector, Span, collector

from portlayer.client import Steps, connect_sync
from portlayer.compose.tracing import read_tracing
from portlayer.model.errors import Conflict

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TOPOLOGY = """
[processes.front]
components = ["network"]

[processes.back]
components = ["storage", "execution", "interaction"]

[tracing]
endpoint = "{endpoint}"
"""
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
SERVER, CLIENT = 2, 3


@pytest.fixture
def received() -> Iterator[Collector]:
    with collector() as received:
        yield received


@pytest.fixture
def apart(tmp_path: Path, received: Collector) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    config = tmp_path / "topology.toml"
    config.write_text(TOPOLOGY.format(endpoint=received.endpoint))
    processes = [
        serving(cli, SOON, ("--config", str(config), "--process", name, "--log-level", "debug"))
        for name in ("back", "front")
    ]
    yield cli
    for process in processes:
        assert stop(process) == 0
    cli.ok("cleanup", "--apply")


def path(spans: list[Span], span: Span) -> list[str]:
    """The names of a span's parents, from the top."""
    by_id = {one.id: one for one in spans}
    names: list[str] = []
    while (above := by_id.get(span.parent)) is not None:
        names.insert(0, f"{above.process}: {above.name}")
        span = above
    return names


def test_one_commit_is_one_trace_through_both_processes(apart: Cli, received: Collector, archive: bytes) -> None:
    front = f"unix://{apart.directory}/run/front.sock"
    (apart.directory / "archive").write_bytes(archive)
    apart.ok("image", "import", str(apart.directory / "archive"))
    caller = {"PORTLAYER_HOST": front, "TRACEPARENT": f"00-{TRACE}-{PARENT}-01"}
    apart.ok("network", "create", "net", environment={"PORTLAYER_HOST": front})
    apart.ok("run", "--rm", "--network", "net", "-e", "SECRET=hunter2", "busybox", "true", environment=caller)
    spans = received.until("commit", "Prepare", "Plug", "Release", "transaction 3", "execution/compose", trace=TRACE)
    top = [span for span in spans if span.parent == PARENT]
    assert {span.process for span in top} == {"front"}
    assert {span.kind for span in top} == {SERVER}
    assert len({span.id for span in spans}) == len(spans)

    started = next(span for span in spans if span.name == "Release")
    above = path(spans, started)
    assert above[:1] == ["front: execution/compose"], "what was called"
    assert above[-2:] == ["back: commit", "back: after"]
    hop = above.index("front: forward execution/compose")
    assert above[hop + 1] == "back: execution/compose", "the next process goes on with it"
    by_id = {span.id: span for span in spans}
    for step in (started, next(span for span in spans if span.name == "Prepare")):
        phase = by_id[step.parent]
        commit = by_id[phase.parent]
        assert (commit.name, commit.facts["vch"]) == ("commit", "default")
        assert step.facts["container"] == commit.facts["container"]
        assert commit.start <= phase.start <= step.start <= step.end <= phase.end
        inside = {span.name: span for span in spans if span.parent == commit.id}
        assert {"queue", "gather", "claims", "transaction 2", phase.name} <= inside.keys()
    done = {span.name for span in spans if by_id.get(span.parent, span).name == "before"}
    assert {"MakeNetwork", "MakeRootfs", "Prepare", "Plug"} <= done
    assert next(span.kind for span in spans if span.name == "forward execution/compose") == CLIENT
    assert not any(span.failed for span in spans)

    lines = [json.loads(line) for line in (apart.directory / "log").read_text().splitlines()]
    mine = [line for line in lines if line.get("trace") == TRACE]
    assert {"execution/compose", "forward execution/compose"} <= {span.name for span in spans}
    calls = [line for line in mine if line["message"] == "request" and line["target"].endswith("/execution/compose")]
    assert set(Counter(call["request"] for call in calls).values()) == {2}, "one request, in both processes"
    assert {call["vch"] for call in calls} == {"default"}
    assert b"hunter2" not in b"".join(received.raw)
    assert not [span for span in received.of("") if span.name in ("service/health", "service/ready")]


def test_what_fails_says_so_and_what_we_do_ourselves_is_another_trace(
    apart: Cli, received: Collector, archive: bytes
) -> None:
    with connect_sync(host=apart.host) as pl:
        pl.storage.import_image(archive)
        steps = Steps().create("busybox", "sh", "-c", "sleep 0.2; exit 3", name="again", restart_policy="on-failure")
        pl.execution.commit(steps.set_state("running"))
        first, second = (pl.execution.get_container("again") for _ in range(2))
        pl.execution.commit(pl.execution.set_labels(first, {"a": "1"}))
        with pytest.raises(Conflict):
            pl.execution.commit(pl.execution.set_labels(second, {"a": "2"}))
        deadline = time.monotonic() + 30
        while not (own := [span for span in received.of("") if span.name == "commit" and not span.parent]):
            assert time.monotonic() < deadline, "the restart is a trace of its own"
            time.sleep(0.02)
        failed = [span for span in received.until("gather") if span.name == "gather" and span.failed]
        assert [span.facts["error.type"] for span in failed] == ["Conflict"]
        assert own[0].trace not in {span.trace for span in received.of("") if span.name == "execution/compose"}
        pl.execution.remove("again", force=True)


def test_a_collector_that_does_not_answer_costs_nothing(tmp_path: Path, archive: bytes) -> None:
    cli = Cli(tmp_path)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        endpoint = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        server = serving(cli, {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_MAX_QUEUE_SIZE": "520"})
        with connect_sync(host=cli.host) as pl:
            pl.storage.import_image(archive)
            took = []
            for _ in range(700):  # more than the queue holds
                began = time.monotonic()
                pl.service.info()
                took.append(time.monotonic() - began)
            steps = Steps().create("busybox", "true", name="runs").set_state("running")
            pl.execution.commit(steps)
            assert pl.execution.wait("runs", timeout_seconds=20).exit_code == 0
        deaf.settimeout(20)
        deaf.accept()[0].close()  # it did try
        assert sorted(took)[len(took) // 2] < 0.5  # a busy machine takes its time, who waits for an answer 10 seconds
        began = time.monotonic()
        assert stop(server) == 0
        assert time.monotonic() - began < 20
    cli.ok("cleanup", "--apply")


def test_nothing_of_it_is_read_where_no_traces_are_wanted() -> None:
    script = """
import sys
from portlayer.cli import serve
from portlayer.compose import read_settings
from portlayer.compose.tracing import open_tracer
from portlayer.model.topology import Part
open_tracer(read_settings({}).tracing, Part(), "i").close()
print([name for name in sys.modules if "opentelemetry" in name])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ('endpoint = "collector:4318"', "is no address"),
        ('endpoint = "http://c:4318"\nsample = 2', "from 0 to 1"),
        ("bogus = 1", "bogus"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, section: str, reason: str) -> None:
    cli = Cli(tmp_path)
    (tmp_path / "config.toml").write_text(f"[tracing]\n{section}\n")
    done = cli("serve", "--config", str(tmp_path / "config.toml"))
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    assert reason in done.err


@pytest.mark.parametrize(
    ("environment", "where"),
    [
        ({}, "http://file:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://base:4318/otlp/"}, "https://base:4318/otlp/v1/traces"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/in"},
            "http://t/in",
        ),
    ],
)
def test_spans_go_where_opentelemetry_would_send_them(environment: dict[str, str], where: str) -> None:
    """Its specification: a path is added to the endpoint for all signals, and none to the one for traces."""
    assert read_tracing({"endpoint": "http://file:4318"}, environment).endpoint == where
