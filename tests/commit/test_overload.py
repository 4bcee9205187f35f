"""Much more than can be done at once: what waits, what is refused, what is answered all the same."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from builders import layer
from harness import ME, Harness

from portlayer.components.records import Records
from portlayer.components.vchs import ensure_vch
from portlayer.compose import Settings
from portlayer.model import execution as e
from portlayer.model import interaction as i
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.bounds import Bounds, Limits
from portlayer.model.caller import Caller
from portlayer.model.errors import Unavailable
from portlayer.model.service import Subscribe
from portlayer.model.storage import Nothing
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server

AT_ONCE, QUEUED, FLOOD = 4, 60, 500
OTHER = Caller(vch="other")


@pytest.fixture
def settings() -> Settings:
    one = Bounds(at_once=1, at_once_per_vch=1, queued=1, queued_per_vch=1)
    return Settings(
        limits=Limits(
            commits=Bounds(at_once=AT_ONCE, at_once_per_vch=3, queued=1000, queued_per_vch=QUEUED),
            imports=one,
            streams=Bounds(at_once=3, at_once_per_vch=2, queued=0, queued_per_vch=0),
        )
    )


class Hold:
    """Holds all that passes a failpoint. order: what has been let on, by what came first."""

    def __init__(self, harness: Harness, *points: str) -> None:
        self._waiting: list[asyncio.Event] = []
        self._came = asyncio.Condition()
        self._open = False
        for point in points:
            harness.failpoints.arm(point, self._stop)

    async def _stop(self, _: str) -> None:
        if not self._open:
            go_on = asyncio.Event()
            self._waiting.append(go_on)
            async with self._came:
                self._came.notify_all()
            await go_on.wait()

    async def until_held(self, count: int) -> None:
        async with asyncio.timeout(20), self._came:
            await self._came.wait_for(lambda: len(self._waiting) >= count)

    @property
    def held(self) -> int:
        return len(self._waiting)

    def let_one_go(self) -> None:
        self._waiting.pop(0).set()

    def let_all_go(self) -> None:
        self._open = True
        while self._waiting:
            self.let_one_go()


@pytest.fixture
async def holding(harness: Harness) -> AsyncIterator[Callable[..., Hold]]:
    """Makes a Hold on failpoints; whatever it holds is let go at the end."""
    made: list[Hold] = []

    def make(*points: str) -> Hold:
        made.append(Hold(harness, *points))
        return made[-1]

    yield make
    for hold in made:
        hold.let_all_go()


async def drafts(harness: Harness, count: int, caller: Caller = ME) -> list[str]:
    request = e.Create(image="busybox", process=e.ProcessRequest(args=("sleep", "1000")))
    return [(await harness.pl.execution.create(caller, request)).handle for _ in range(count)]


def commits(harness: Harness, handles: list[str], caller: Caller = ME) -> list[asyncio.Task[Any]]:
    work = harness.pl.execution
    return [asyncio.create_task(work.commit(caller, e.Commit(handle=handle))) for handle in handles]


async def other_vch(harness: Harness) -> None:
    await ensure_vch(Records(harness.store), OTHER.vch, "2026-01-01T00:00:00Z")

    async def body() -> AsyncIterator[bytes]:
        yield layer()[1]

    await harness.pl.storage.import_image(OTHER, s.ImportImage(name="busybox", format="rootfs"), body())


async def figure(harness: Harness, name: str, kind: str = "commits", vch: str = "default") -> float:
    text = await harness.pl.service.metrics(ME, Nothing())
    prefix = f'portlayer_queue_{name}{{kind="{kind}",vch="{vch}"}} '
    return next((float(line.removeprefix(prefix)) for line in text.splitlines() if line.startswith(prefix)), 0)


async def settled(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(20):
        return await work


async def test_what_exceeds_the_bounds_is_refused_and_nothing_else(
    harness: Harness, holding: Callable[..., Hold]
) -> None:
    hold = holding("commit.record")
    tasks = commits(harness, await drafts(harness, FLOOD))
    await hold.until_held(3)
    refused = [task for task in tasks if task.done()]
    assert len(refused) == FLOOD - 3 - QUEUED
    for task in refused:
        error = task.exception()
        assert isinstance(error, Unavailable)
        assert error.facts["retry_after_seconds"] >= 1
        assert error.facts["refused"] is True
    assert (await figure(harness, "running"), await figure(harness, "waiting")) == (3, QUEUED)
    assert await figure(harness, "refused_total") == len(refused)
    hold.let_all_go()
    done = [await settled(task) for task in tasks if task not in refused]
    listed = await harness.pl.execution.list_containers(ME, e.ListContainers(limit=1000))
    assert {one.id for one in listed.containers} == {one.id for one in done}
    assert (await figure(harness, "running"), await figure(harness, "waiting")) == (0, 0)


async def test_a_handle_that_was_refused_is_good_later(harness: Harness, holding: Callable[..., Hold]) -> None:
    hold = holding("commit.record")
    handles = await drafts(harness, FLOOD)
    tasks = commits(harness, handles)
    await hold.until_held(3)
    late = next(handle for handle, task in zip(handles, tasks, strict=True) if task.done())
    hold.let_all_go()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await harness.commit(late)).revision == 1


async def test_a_vch_that_floods_does_not_keep_another_waiting(harness: Harness, holding: Callable[..., Hold]) -> None:
    await other_vch(harness)
    await harness.run(name="seen")
    order: list[str] = []
    hold = holding("commit.record")
    flood = commits(harness, await drafts(harness, FLOOD))
    await hold.until_held(3)
    others = commits(harness, await drafts(harness, 10, OTHER), OTHER)
    for task in others:
        task.add_done_callback(lambda _: order.append("other"))
    for task in flood:
        if not task.done():
            task.add_done_callback(lambda _: order.append("flood"))
    await hold.until_held(AT_ONCE)  # one is in the place that the flood may not take
    async with asyncio.timeout(20):
        while not all(task.done() for task in others):
            hold.let_one_go()
            while hold.held < AT_ONCE - 1:
                await asyncio.sleep(0)
    assert order.count("flood") <= 2 * 10 + AT_ONCE
    hold.let_all_go()
    assert {(await settled(task)).revision for task in others} == {1}
    await asyncio.gather(*flood, return_exceptions=True)


async def test_what_is_cheap_is_answered_while_everything_else_is_held(
    harness: Harness, holding: Callable[..., Hold]
) -> None:
    await harness.network()
    running = await harness.run(name="seen")
    events = await harness.pl.service.events(ME, Subscribe(since="now"))
    handles = await drafts(harness, FLOOD)
    hold = holding("commit.intent", "commit.record")
    tasks = commits(harness, handles)
    await hold.until_held(3)

    async def cheap() -> None:
        listed = await harness.pl.execution.list_containers(ME, e.ListContainers())
        assert [one.id for one in listed.containers] == [running.id]
        assert (await harness.inspect("seen")).state == "running"
        assert (await harness.pl.service.ready(ME, Nothing())).ready
        assert "portlayer_queue_waiting" in await harness.pl.service.metrics(ME, Nothing())
        handle = await harness.set_labels(await harness.handle("seen"), a="1")
        join = n.JoinNetwork(handle=handle, network="gibson_network")
        joined = await harness.pl.network.join(ME, join)
        bound = await harness.pl.network.bind(ME, n.BindNetwork(handle=joined.handle))
        await harness.pl.execution.inspect(ME, e.Inspect(handle=bound.handle))
        await harness.pl.execution.signal(ME, e.Signal(ref="seen", signal="SIGKILL"))
        assert (await harness.wait("seen")).exit_code == 137

    await settled(cheap())
    assert (await settled(anext(events))).event.type == "container.exited"
    assert hold.held == 3
    assert not any(task.done() and not task.exception() for task in tasks)
    hold.let_all_go()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_stop_with_a_long_grace_keeps_no_place(harness: Harness) -> None:
    deaf = ("sh", "-c", "trap '' TERM; while true; do sleep 1000; done")
    names = [f"deaf-{number}" for number in range(2 * AT_ONCE)]
    for name in names:
        await harness.run(*deaf, name=name)
    handles = [await harness.set_state(await harness.handle(name), "stopped", timeout_seconds=1000) for name in names]
    stops = commits(harness, handles)
    async with asyncio.timeout(20):
        while await figure(harness, "admitted_total") < 2 * len(names):
            await asyncio.sleep(0)
        while await figure(harness, "running"):
            await asyncio.sleep(0)
    assert (await settled(harness.run(name="late"))).state == "running"
    assert not any(task.done() for task in stops)
    for name in names:
        await harness.pl.execution.signal(ME, e.Signal(ref=name, signal="SIGKILL"))
    assert {(await settled(task)).state for task in stops} == {"stopped"}


async def test_who_waits_for_a_container_keeps_no_place(harness: Harness, holding: Callable[..., Hold]) -> None:
    await harness.commit(await harness.draft(name="one"))
    handles = [await harness.set_labels(await harness.handle("one"), **{f"l{number}": "x"}) for number in range(20)]
    hold = holding("commit.record")
    tasks = commits(harness, handles)
    await hold.until_held(1)
    other = asyncio.create_task(harness.commit((await drafts(harness, 1))[0]))
    await hold.until_held(2)
    hold.let_all_go()
    assert (await settled(other)).revision == 1
    assert {(await settled(task)).revision for task in tasks} == set(range(2, 22))


async def test_those_that_wait_for_one_container_are_bounded_too(
    harness: Harness, holding: Callable[..., Hold]
) -> None:
    await harness.commit(await harness.draft(name="one"))
    base = await harness.handle("one")
    handles = [await harness.set_labels(base, **{f"l{number}": "x"}) for number in range(2 * QUEUED)]
    hold = holding("commit.record")
    tasks = commits(harness, handles)
    await hold.until_held(1)
    async with asyncio.timeout(20):
        while await figure(harness, "waiting") + await figure(harness, "refused_total") < len(tasks) - 1:
            await asyncio.sleep(0)
    hold.let_all_go()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, Unavailable) for result in results) == await figure(harness, "refused_total") > 0
    found = await harness.inspect("one")
    assert len(found.labels) == sum(isinstance(result, e.Committed) for result in results) >= QUEUED


async def test_what_we_do_by_ourselves_is_never_refused(harness: Harness, holding: Callable[..., Hold]) -> None:
    """Restarts and removals wait behind a line that is full, and happen."""
    await harness.run("sleep", "1000", name="again", restart_policy=e.RestartPolicy(name="always"))
    await harness.run("sleep", "1000", name="gone", remove_on_exit=True)
    mine = list(harness.world.incarnations.values())
    handles = await drafts(harness, FLOOD)
    hold = holding("commit.record")
    tasks = commits(harness, handles)
    await hold.until_held(3)
    refused = await figure(harness, "refused_total")
    for incarnation in mine:
        incarnation.signal(signal.SIGKILL, outside=True)
    for name in ("again", "gone"):
        assert (await harness.wait(name)).state == "stopped"
    async with asyncio.timeout(20):
        while await figure(harness, "waiting") < QUEUED + 2:
            await asyncio.sleep(0.01)
    assert await figure(harness, "refused_total") == refused
    hold.let_all_go()
    await settled(harness.wait("again", "running"))
    async with asyncio.timeout(20):
        while (await harness.pl.execution.list_containers(ME, e.ListContainers(name="gone"))).containers:
            await asyncio.sleep(0.01)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_caller_that_goes_away_frees_its_place_only_before_its_turn(
    harness: Harness, holding: Callable[..., Hold]
) -> None:
    handles = await drafts(harness, 5)
    hold = holding("commit.intent")
    tasks = commits(harness, handles)
    await hold.until_held(3)
    for task in (tasks[0], tasks[4]):
        task.cancel()
    await asyncio.wait({tasks[0], tasks[4]})
    assert (await figure(harness, "running"), await figure(harness, "waiting")) == (3, 1)
    hold.let_all_go()
    await asyncio.gather(*tasks[1:4])
    async with asyncio.timeout(20):
        while await figure(harness, "running"):
            await asyncio.sleep(0)
    assert len((await harness.pl.execution.list_containers(ME, e.ListContainers())).containers) == 4
    assert (await harness.commit(handles[4])).revision == 1


async def test_imports_are_few_at_once_and_one_that_waits_reads_nothing(
    harness: Harness, holding: Callable[..., Hold]
) -> None:
    async def body(read: asyncio.Event) -> AsyncIterator[bytes]:
        read.set()
        yield layer()[1]

    def importing(name: str, read: asyncio.Event) -> asyncio.Task[s.Images]:
        request = s.ImportImage(name=name, format="rootfs")
        return asyncio.create_task(harness.pl.storage.import_image(ME, request, body(read)))

    hold = holding("import.read")
    reads = [asyncio.Event() for _ in range(3)]
    first = importing("first", reads[0])
    await hold.until_held(1)
    second, third = importing("second", reads[1]), importing("third", reads[2])
    with pytest.raises(Unavailable, match="imports"):
        await third
    assert not reads[1].is_set()
    assert (await harness.run()).state == "running"
    hold.let_all_go()
    assert (await settled(second)).images[0].id == (await settled(first)).images[0].id
    assert not reads[2].is_set()


async def test_streams_are_bounded_by_vch_and_end_by_themselves(harness: Harness) -> None:
    await harness.run(name="one")
    logs = i.Logs(ref="one", follow=True)
    open_ = [await harness.pl.interaction.logs(ME, logs), await harness.pl.interaction.attach(ME, i.Attach(ref="one"))]
    for refused in (
        harness.pl.interaction.logs(ME, logs),
        harness.pl.interaction.attach(ME, i.Attach(ref="one")),
        harness.pl.interaction.output(ME, i.Streams(ref="one"), i.STDOUT),
    ):
        with pytest.raises(Unavailable, match="streams"):
            await refused
    await open_[1].close()
    output = await harness.pl.interaction.output(ME, i.Streams(ref="one"), i.STDOUT)
    await harness.pl.execution.signal(ME, e.Signal(ref="one", signal="SIGKILL"))
    assert [chunk async for chunk in output] == [chunk async for chunk in open_[0]] == []
    assert await figure(harness, "running", "streams") == 0


async def test_who_leaves_while_nothing_is_said_gives_the_place_back(harness: Harness, tmp_path: Path) -> None:
    await harness.run("sleep", "1000", name="quiet")
    server = Server(harness.pl)
    await server.listen_unix(tmp_path / "s")
    async with RestClient(f"unix://{tmp_path / 's'}") as client:
        attachment = await client.interaction.attach(ME, i.Attach(ref="quiet"))
        assert await figure(harness, "running", "streams") == 1
        await attachment.close()
        async with asyncio.timeout(20):
            while await figure(harness, "running", "streams"):
                await asyncio.sleep(0)
    await server.drain(5)


async def test_over_rest_the_refused_are_told_when_to_come_again_and_health_is_told_throughout(
    harness: Harness, holding: Callable[..., Hold], tmp_path: Path
) -> None:
    server = Server(harness.pl)
    await server.listen_unix(tmp_path / "s")
    hold = holding("commit.record")
    handles = await drafts(harness, FLOOD)
    connector = aiohttp.UnixConnector(str(tmp_path / "s"), limit=0)
    async with aiohttp.ClientSession("http://localhost", connector=connector) as http:

        async def commit(handle: str) -> tuple[int, str | None]:
            async with http.post("/v1/vchs/default/execution/commit", json={"handle": handle}) as response:
                await response.read()
                return response.status, response.headers.get("Retry-After")

        tasks = [asyncio.create_task(commit(handle)) for handle in handles]
        await hold.until_held(3)
        for path in ("/healthz", "/readyz", "/metrics", "/v1/vchs/default/execution/containers"):
            async with asyncio.timeout(20), http.get(path) as response:
                assert response.status == 200
        hold.let_all_go()
        answers = await asyncio.gather(*tasks)
    await server.drain(5)
    assert {status for status, _ in answers} == {200, 503}
    assert all((retry is not None and int(retry) >= 1) is (status == 503) for status, retry in answers)
    listed = await harness.pl.execution.list_containers(ME, e.ListContainers(limit=1000))
    assert len(listed.containers) == sum(status == 200 for status, _ in answers) >= 3 + QUEUED
