"""500 calls at once on a real server: each is answered, or refused with the time to come again."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from e2e.conftest import Served

from portlayer.client import Steps, connect

STARTS, CALLS = 60, 500
V = "/v1/vchs/default"
LIMITS = """
[limits.commits]
atOnce = 2
atOncePerVch = 2
queued = 10
queuedPerVch = 10
"""


async def test_500_calls_at_once(served: Served, archive: bytes) -> None:
    served.end()
    config = served.directory / "topology.toml"
    config.write_text(LIMITS)
    served.serve(options=("--config", str(config)))
    async with connect(host=served.host, retries=10) as pl:
        await pl.storage.import_image(archive)
        ids = [
            (await pl.execution.commit(Steps().create("busybox", "sleep", "1000", name=f"c{number}"))).id
            for number in range(STARTS)
        ]
    connector = aiohttp.UnixConnector(served.host.removeprefix("unix://"), limit=0)
    async with aiohttp.ClientSession("http://localhost", connector=connector) as http:
        health = asyncio.create_task(_health(http))
        calls = [asyncio.create_task(_call(http, number, ids)) for number in range(CALLS)]
        answers = await asyncio.gather(*calls)
        assert not health.done(), health
        health.cancel()
        assert {status for status, _, _ in answers} <= {200, 503}
        refused = [retry for status, retry, _ in answers if status == 503]
        assert refused
        assert all(retry is not None and int(retry) >= 1 for retry in refused)
        started = {body["answers"][-1]["id"] for status, _, body in answers if status == 200 and "answers" in body}
        assert len(started) >= 12  # those that run and those that may wait
    async with connect(host=served.host, retries=10) as pl:
        states = {one.id: one.state for one in await pl.execution.list()}
        assert states == {each: "running" if each in started else "created" for each in ids}
        assert {process.container for process in served.view.processes()} >= started
        await asyncio.gather(*(pl.execution.remove(each, force=True) for each in ids))
        assert await pl.execution.list() == ()
    assert served.end() == 0
    served.serve()
    assert (served.view.processes(), served.view.mounted(), served.view.incarnations()) == ([], set(), {})


async def _call(http: aiohttp.ClientSession, number: int, ids: list[str]) -> tuple[int, str | None, Any]:
    """One of the 500: a start for each container, and reads and handle calls between."""
    kind, ref = number % 8, ids[number % STARTS]
    steps = [{"call": "execution/set-state", "state": "running"}, {"call": "execution/commit"}]
    if number < STARTS:
        async with http.post(f"{V}/execution/containers/{ref}/handle") as response:
            handle = (await response.json())["handle"]
        body: Any = {"steps": [{**steps[0], "handle": handle}, steps[1]]}
        asking = http.post(f"{V}/execution/compose", json=body)
    elif kind < 3:
        asking = http.post(f"{V}/execution/create", json={"image": "busybox"})
    elif kind < 5:
        asking = http.get(f"{V}/execution/containers")
    elif kind < 7:
        asking = http.post(f"{V}/execution/containers/{ref}/handle")
    else:
        asking = http.get(f"{V}/execution/containers/{ref}")
    async with asking as response:
        return response.status, response.headers.get("Retry-After"), await response.json(content_type=None)


async def _health(http: aiohttp.ClientSession) -> None:
    while True:
        async with http.get("/healthz") as response:
            assert response.status == 200
        await asyncio.sleep(0)
