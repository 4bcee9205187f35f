"""What happens behind our back is found, and mended or recorded; the host in memory, over each store."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from commit_kinds import check, setting
from harness import ME, Harness

from portlayer.components.reconciler import Reconciler
from portlayer.model import execution as e
from portlayer.model.errors import SubstrateFailed
from portlayer.model.storage import Nothing
from portlayer.substrates.memory.process import Incarnation
from portlayer.substrates.memory.world import Step


def reconciler(harness: Harness) -> Reconciler:
    return harness.pl.execution._reconciler  # type: ignore[attr-defined,no-any-return]


async def sweep(harness: Harness) -> dict[str, int]:
    """What one sweep has mended."""
    await asyncio.sleep(0)
    before = reconciler(harness).repairs.copy()
    await reconciler(harness).sweep()
    return dict(reconciler(harness).repairs - before)


async def events(harness: Harness) -> str:
    return "\n".join(row.value.decode() for row in await harness.store.range("/v/default/events/"))


def only(harness: Harness) -> Incarnation:
    (one,) = harness.world.live()
    return one


@pytest.fixture
async def host(harness: Harness) -> Harness:
    """A host that has been swept, with a network and a volume."""
    await setting(harness)
    await sweep(harness)
    return harness


async def test_nothing_to_mend(host: Harness) -> None:
    await host.run("sleep", "1000", network="gibson_network", volume="jar", name="runs")
    await host.commit(await host.draft(network="gibson_network", name="waits"))
    assert await sweep(host) == {}
    await check(host)


async def test_a_link_is_plugged_again_with_the_same_address(host: Harness) -> None:
    await host.run("sleep", "1000", network="gibson_network", name="cookie")
    before = await host.inspect("cookie")
    (lost,) = only(host).links
    host.world.lose_link(only(host).id, lost)
    assert await sweep(host) == {"link": 1}
    await check(host)
    assert await host.inspect("cookie") == before
    assert '"network":"gibson_network"' in await events(host)
    assert await sweep(host) == {}


@pytest.mark.parametrize("state", ["running", "paused", "created"])
async def test_a_network_is_made_again_with_its_links(host: Harness, state: str) -> None:
    handle = await host.draft(network="gibson_network", name="cookie")
    await host.commit(handle if state == "created" else await host.set_state(handle, "running"))
    if state == "paused":
        await host.commit(await host.set_state(await host.handle("cookie"), "paused"))
    (links,) = [one.links.copy() for one in host.world.live()]
    (network,) = host.world.networks
    host.world.lose_network(network)
    assert await sweep(host) == {"network": 1, "link": 1}
    assert list(host.world.networks) == [network]
    assert only(host).links == links
    assert '"network.repaired"' in await events(host)
    await check(host)


@pytest.mark.parametrize("state", ["running", "paused", "created"])
async def test_a_lost_mount_comes_back(host: Harness, state: str) -> None:
    handle = await host.draft(name="cookie")
    await host.commit(handle if state == "created" else await host.set_state(handle, "running"))
    if state == "paused":
        await host.commit(await host.set_state(await host.handle("cookie"), "paused"))
    before = await host.inspect("cookie")
    host.world.lose_mount(before.id)
    assert await sweep(host) == {"mount": 1}
    assert '"mended":"mount"' in await events(host)
    assert await host.inspect("cookie") == before
    await check(host)
    assert await sweep(host) == {}
    text = await host.pl.service.metrics(ME, Nothing())
    assert 'portlayer_reconciler_repairs_total{kind="mount"} 1' in text


async def test_a_mount_that_does_not_come_back_is_told_of_once_and_tried_again(host: Harness) -> None:
    for name in ("cookie", "elmo"):
        await host.run("sleep", "1000", name=name)
        host.world.lose_mount((await host.inspect(name)).id)
    lost = (await host.inspect("cookie")).id

    def refuse(now: Step) -> None:
        if now.name == "storage.make_rootfs" and lost in now.ids:
            raise SubstrateFailed("the kernel refuses")

    relent = host.world.before(refuse)
    assert await sweep(host) == {"mount": 1}
    assert await sweep(host) == {}
    told = [line for line in (await events(host)).splitlines() if '"container.unrepaired"' in line]
    assert len(told) == 1
    assert '"lost":"mount","reason":"the kernel refuses"' in told[0]
    relent()
    assert await sweep(host) == {"mount": 1}
    await check(host)


async def test_a_stopped_container_needs_no_mount(host: Harness) -> None:
    await host.run("true", name="cookie")
    await host.wait("cookie")
    host.world.lose_mount((await host.inspect("cookie")).id)
    assert await sweep(host) == {}


async def test_a_removed_process_is_an_exit(host: Harness) -> None:
    await host.run("sleep", "1000", network="gibson_network", name="cookie")
    host.world.lose_process(only(host).id)
    await sweep(host)
    gone = await host.inspect("cookie")
    assert (gone.state, gone.exit_code) == ("stopped", 255)
    assert (await events(host)).count('"container.exited"') == 1
    await check(host)


async def test_an_exit_that_nobody_followed_is_recorded_and_leads_to_what_it_should(host: Harness) -> None:
    await host.run("sleep", "1000", name="cookie", restart_policy=e.RestartPolicy(name="always"))
    for task in host.pl.execution._observer._tasks.copy():  # type: ignore[attr-defined]
        task.cancel()
    await asyncio.sleep(0)
    host.world.kill(only(host).id)
    assert await sweep(host) == {"exit": 1}
    async with asyncio.timeout(20):
        while (await host.inspect("cookie")).restarts != 1:
            await asyncio.sleep(0.01)
    await check(host)


async def test_a_prepared_process_is_made_again(host: Harness) -> None:
    await host.commit(await host.draft(network="gibson_network", name="cookie"))
    before = await host.inspect("cookie")
    host.world.lose_process(only(host).id)
    assert await sweep(host) == {"process": 1}
    assert only(host).state == "prepared"
    assert await host.inspect("cookie") == before
    await check(host)
    assert await sweep(host) == {}


async def test_a_prepared_process_that_cannot_be_made_again_is_forgotten(host: Harness) -> None:
    await host.commit(await host.draft(name="cookie"))
    host.world.lose_process(only(host).id)
    host.world.fail("execution.prepare", SubstrateFailed("no"))
    assert await sweep(host) == {}
    assert await sweep(host) == {}
    assert (await host.commit(await host.set_state(await host.handle("cookie"), "running"))).state == "running"
    await check(host)


async def test_what_the_host_says_of_a_pause_is_the_truth(host: Harness) -> None:
    await host.run("sleep", "1000", name="cookie")
    only(host).freeze(frozen=True)
    assert await sweep(host) == {"state": 1}
    assert (await host.inspect("cookie")).state == "paused"
    only(host).freeze(frozen=False)
    assert await sweep(host) == {"state": 1}
    assert (await host.inspect("cookie")).state == "running"


async def test_a_reboot(host: Harness) -> None:
    await host.run("sleep", "1000", network="gibson_network", name="stays")
    await host.run(
        *("sleep", "1000"), network="gibson_network", name="returns", restart_policy=e.RestartPolicy(name="always")
    )
    await host.commit(await host.draft(network="gibson_network", name="waits"))
    before = {name: (await host.inspect(name)).endpoints for name in ("stays", "returns", "waits")}
    host.world.reboot()
    await host.crash()
    async with asyncio.timeout(20):
        while len(host.world.live()) < 2 or len(host.world.networks) < 1:
            await asyncio.sleep(0.01)
        await host.wait("returns", "running")
    await sweep(host)
    stays = await host.inspect("stays")
    assert (stays.state, stays.exit_code) == ("stopped", 255)
    assert (await host.inspect("waits")).state == "created"
    assert {name: (await host.inspect(name)).endpoints for name in before} == before
    await check(host)


async def test_what_no_record_explains_goes(host: Harness) -> None:
    await host.commit(await host.draft(name="cookie"))
    strange = only(host)
    spec = e.replace(strange.spec, id="f" * 32)
    host.world.rootfs[spec.id] = host.world.rootfs[strange.spec.id]
    host.world.incarnations["e" * 32] = Incarnation(spec, "e" * 32, strange.log, strange.view, strange._plan)
    host.world.incarnations["d" * 32] = Incarnation(strange.spec, "d" * 32, strange.log, strange.view, strange._plan)
    (network,) = host.world.networks or [None]
    assert network is None
    assert await sweep(host) == {"unexplained": 3}
    assert only(host) is strange
    await check(host)


@pytest.mark.parametrize("point", ["commit.done.Prepare", "commit.done.Plug", "commit.record", "commit.done.Release"])
async def test_what_is_being_committed_is_left_alone(host: Harness, point: str) -> None:
    """Also by the reconciler of another process."""
    other = await host.another()
    handle = await host.set_state(await host.draft(network="gibson_network", name="cookie"), "running")
    reached, go = asyncio.Event(), asyncio.Event()

    async def wait(_: str) -> None:
        reached.set()
        await go.wait()

    host.failpoints.arm(point, wait)
    committing = asyncio.ensure_future(host.commit(handle))
    await reached.wait()
    for link in list(only(host).links):
        host.world.lose_link(only(host).id, link)
    for each in (host, other):
        assert await sweep(each) == {}
    go.set()
    await committing
    await sweep(host)
    await check(host)
    await other.stop()


async def test_a_container_that_cannot_be_mended_keeps_no_other_from_it(host: Harness) -> None:
    for name in ("one", "two"):
        await host.run("sleep", "1000", network="gibson_network", name=name)
    for one in host.world.live():
        one.links.clear()
    host.world.fail("network.plug", SubstrateFailed("no"))
    assert await sweep(host) == {"link": 1}
    assert await sweep(host) == {"link": 1}
    await check(host)


async def test_a_sweep_of_many_lets_others_run(host: Harness) -> None:
    for number in range(0, 1000, 50):
        names = [f"c{number + each}" for each in range(50)]
        await asyncio.gather(*[_waiting(host, name) for name in names])
    pauses: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    ticking = asyncio.ensure_future(tick())
    assert await sweep(host) == {}
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    assert len(pauses) > 1000


async def _waiting(host: Harness, name: str) -> None:
    await host.commit(await host.draft(name=name))


async def test_metrics(host: Harness) -> None:
    await host.run("sleep", "1000", network="gibson_network", name="cookie")
    only(host).links.clear()
    await sweep(host)
    text = await host.pl.service.metrics(ME, Nothing())
    assert 'portlayer_reconciler_repairs_total{kind="link"} 1' in text
    assert "portlayer_reconciler_last_sweep_duration_seconds" in text
