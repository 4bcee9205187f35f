"""What `/metrics` says, read by the parser of Prometheus's own Python client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from apart.cluster import Cluster
from driver import Driver
from harness import ME, Harness, harness_over
from prometheus_client.parser import text_string_to_metric_families

from portlayer.interfaces.store import Store
from portlayer.metrics import SECONDS, Counter, Metrics, exposition
from portlayer.model import execution as e
from portlayer.model.errors import Conflict, NotFound, SubstrateFailed
from portlayer.model.storage import Nothing
from portlayer.rest.server import Server
from portlayer.stores.memory import MemoryStore

V = "/v1/vchs/default"
Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Figures:
    """All samples; each family was told once, and each sample once."""
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation for family in families)
    assert all(family.type in ("counter", "gauge", "histogram") for family in families)
    samples = [(sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples]
    assert len(set(samples)) == len(samples)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def one(figures: Figures, name: str, **labels: str) -> float:
    return figures[f"portlayer_{name}", frozenset(labels.items())]


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    store = MemoryStore()

    async def open_store() -> Store:
        return store

    async with harness_over(open_store, tmp_path) as harness:
        yield harness


async def asked(harness: Harness) -> Figures:
    return read(await harness.pl.service.metrics(ME, Nothing()))


async def test_commits_by_result_and_time_by_step(harness: Harness) -> None:
    await harness.network()
    await harness.run("sleep", "1000", name="cookie", network="gibson_network")
    first, second = await harness.handle("cookie"), await harness.handle("cookie")
    await harness.commit(await harness.set_labels(first, by="one"))
    with pytest.raises(Conflict):
        await harness.commit(await harness.set_labels(second, by="two"))

    async def broken(_: str) -> None:
        raise SubstrateFailed("It broke.")

    harness.failpoints.arm("commit.before.Prepare", broken)
    with pytest.raises(SubstrateFailed):
        await harness.run("true", name="bad")
    harness.failpoints.disarm()
    gone = await harness.set_labels(await harness.handle("cookie"), by="late")
    await harness.remove("cookie", force=True)
    with pytest.raises(NotFound):
        await harness.commit(gone)

    figures = await asked(harness)
    assert one(figures, "commits_total", result="ok", step="") == 3
    assert one(figures, "commits_total", result="conflict", step="") == 1
    assert one(figures, "commits_total", result="failed", step="Prepare") == 1
    assert one(figures, "commits_total", result="refused", step="") == 1
    assert one(figures, "commit_seconds_count") == 3
    for step, count in {"MakeNetwork": 1, "MakeRootfs": 2, "Prepare": 1, "Plug": 1, "Release": 1, "Stop": 1}.items():
        assert one(figures, "commit_step_seconds_count", step=step) == count, step
    assert one(figures, "commit_undo_seconds_count", step="MakeRootfs") == 1
    for phase, count in {"queue": 6, "gather": 6, "transaction 1": 3, "transaction 2": 3, "undo": 1}.items():
        assert one(figures, "commit_phase_seconds_count", phase=phase) == count, phase
    buckets = [one(figures, "commit_seconds_bucket", le=f"{end:g}") for end in SECONDS]
    assert 0 < one(figures, "commit_seconds_sum") < 60
    assert buckets == sorted(buckets)
    assert one(figures, "commit_seconds_bucket", le="+Inf") == 3


async def test_a_commit_that_waits_for_another_is_told_apart(harness: Harness) -> None:
    await harness.run("sleep", "1000", name="cookie")
    first, second = await harness.handle("cookie"), await harness.set_labels(await harness.handle("cookie"), a="b")
    waiting: list[asyncio.Task[e.Committed]] = []

    async def hold(_: str) -> None:
        waiting.append(asyncio.create_task(harness.commit(second)))
        async with asyncio.timeout(20):
            while not harness.engine._gate.lines["default"].parked:
                await asyncio.sleep(0)

    harness.failpoints.arm("commit.before.Pause", hold)
    await harness.commit(await harness.set_state(first, "paused"))
    await waiting[0]
    assert one(await asked(harness), "commit_phase_seconds_count", phase="wait") == 1


async def test_what_there_is_by_state_and_tenant(harness: Harness) -> None:
    await harness.network()
    await harness.run("sleep", "1000", name="runs")
    await harness.commit(await harness.draft(name="made"))
    leased = await harness.draft(name="leased", network="gibson_network")
    figures = await asked(harness)
    assert one(figures, "containers", vch="default") == 2
    states = {state: one(figures, "container_states", state=state) for state in ("created", "running", "stopped")}
    assert states == {"created": 1, "running": 1, "stopped": 0}
    assert one(figures, "leases", vch="default") == 1
    await harness.pl.execution.discard(ME, e.Discard(handle=leased))
    assert one(await asked(harness), "leases", vch="default") == 0


async def test_the_process_says_how_it_is(harness: Harness) -> None:
    figures = await asked(harness)
    plain = {name: value for (name, labels), value in figures.items() if not labels}
    assert abs(plain["process_start_time_seconds"] - time.time()) < 3600
    assert 1 < plain["process_open_fds"] < plain["process_max_fds"]
    assert 10e6 < plain["process_resident_memory_bytes"] < plain["process_virtual_memory_bytes"]
    assert 0 < plain["process_cpu_seconds_total"] < 3600
    assert plain["portlayer_store_watches"] >= 1
    info = [dict(labels) for (name, labels) in figures if name == "portlayer_info"]
    assert [(one["process"], one["host"], one["store"]) for one in info] == [("main", "local", "memory")]


async def test_a_commit_is_told_by_the_process_that_made_it_and_by_no_other(cluster: Cluster) -> None:
    driver = Driver(cluster.served)
    await driver.image()
    await driver.commit(await driver.draft())
    told = {}
    for part in cluster.topology.parts:
        async with cluster.at(part.name) as pl:
            figures = read(await pl.service.metrics())
            told[part.name] = figures.get(("portlayer_commits_total", frozenset({("result", "ok"), ("step", "")})), 0)
    assert sum(told.values()) == 1
    assert "execution" in cluster.topology.part(max(told, key=told.__getitem__)).components


async def test_requests_by_call_and_status(cluster: Cluster, tmp_path: Path) -> None:
    metrics = Metrics()
    server = Server(cluster.served, metrics=metrics)
    await server.listen_unix(tmp_path / "s")
    connector = aiohttp.UnixConnector(str(tmp_path / "s"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as http:
        odd = f"/v1/vchs/{'x' * 40}/execution/containers"
        containers = f"{V}/execution/containers"
        for path in (containers, containers, f"{containers}/nobody", "/nonsense", odd):
            async with http.get(path) as answer:
                await answer.read()
        events = await http.get(f"{V}/events")
        figures = read(metrics.text())
        assert one(figures, "http_requests_under_way", call="service/events") == 1
        assert one(figures, "http_connections", state="busy") == 1
        events.close()
        async with asyncio.timeout(20):
            while one(read(metrics.text()), "http_requests_under_way", call="service/events"):
                await asyncio.sleep(0.001)
    await server.drain(1)
    figures = read(metrics.text())
    assert one(figures, "http_requests_total", call="execution/list-containers", status="200") == 2
    assert one(figures, "http_requests_total", call="execution/list-containers", status="404") == 1
    assert one(figures, "http_requests_total", call="execution/get-container", status="404") == 1
    assert one(figures, "http_requests_total", call="(none)", status="404") == 1
    assert one(figures, "http_request_seconds_count", call="execution/list-containers") == 3
    assert not any("xxxx" in str(labels) for _, labels in figures), "what callers write becomes no label"
    assert not any(("call", "service/events") in labels for name, labels in figures if "seconds" in name)


def test_any_text_can_be_a_label() -> None:
    counter = Counter("odd_total", 'with \\ and\na line "end"', ("what",))
    counter.add('a"b\\c\nd')
    (family,) = text_string_to_metric_families(exposition(counter))
    assert family.samples[0].labels == {"what": 'a"b\\c\nd'}


def test_a_name_is_one_metric() -> None:
    metrics = Metrics()
    metrics.counter("a_total", "A.")
    with pytest.raises(ValueError, match="two metrics"):
        metrics.counter("a_total", "A.")
