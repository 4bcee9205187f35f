"""Several processes on one store and one host: they never act on each other's commits, until one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import images
import pytest
from commit_kinds import KINDS, check, clear, picture, points, setting
from conformance.store_tools import FakeClock
from driver import ME, Driver
from harness import Harness

from portlayer.components.membership import LEASE_SECONDS
from portlayer.compose import Settings
from portlayer.interfaces.store import Store
from portlayer.model import execution as e
from portlayer.model import storage as s
from portlayer.model.errors import PortlayerError, SubstrateFailed, Unavailable
from portlayer.stores.memory import MemoryStore
from portlayer.stores.sqlite import SqliteStore
from portlayer.substrates.memory.world import Step

LOOKING = {
    *("execution.present", "storage.rootfs", "storage.layers", "storage.volumes", "storage.check_capacity"),
    *("storage.written", "network.networks", "network.reserved_subnets", "network.has_ipv6"),
}


class Family:
    """Processes on one host, and the clock of their leases."""

    def __init__(self, first: Harness, clock: FakeClock) -> None:
        self.first = first
        self.clock = clock
        self.all = [first]

    async def another(self, host: str = "local", *, alone: bool = False) -> Harness:
        self.all.append(await self.first.another(host, alone=alone))
        return self.all[-1]

    async def outlast(self, *alive: Harness) -> None:
        """Time passes in which only those *alive* say so."""
        for _ in range(2):
            self.clock.advance(LEASE_SECONDS * 0.6)
            for one in alive:
                await one.engine.membership.refresh()


@pytest.fixture(params=["memory", "sqlite"])
async def family(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Family]:
    opened: list[Store] = []
    clock = FakeClock()

    async def open_store() -> Store:
        if request.param == "sqlite":
            opened.append(await SqliteStore.open(tmp_path / "store.db", clock=clock))
        elif not opened:
            opened.append(MemoryStore(clock=clock))
        return opened[-1]

    family = Family(Harness(open_store, tmp_path, Settings(), clock=clock), clock)
    await family.first.start()
    await family.first.image()
    yield family
    for one in family.all:
        if not one.dead:
            await one.stop()
    for one in family.all:
        await one.close()
    for store in opened:
        await store.close()


def count(harness: Harness) -> Counter[str]:
    """The calls that the host sees from now on, but for those of sweeps, which only look."""
    calls: Counter[str] = Counter()

    def note(step: Step) -> None:
        if step.name not in LOOKING:
            calls[step.name] += 1

    harness.world.after(note)
    return calls


async def _hold(harness: Harness, point: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Events: *point* was reached; it may go on."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def wait(_: str) -> None:
        reached.set()
        await go.wait()

    harness.failpoints.arm(point, wait)
    return reached, go


async def look_after(survivor: Harness) -> None:
    """What it does by itself, every few seconds."""
    await survivor.engine.recovery.recover_all()
    await survivor.pl.storage.sweep()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", KINDS)
async def test_a_survivor_finishes_or_undoes(family: Family, name: str) -> None:
    kind, process = KINDS[name], family.first
    await setting(process)
    seen, wanted = await points(process, kind)
    for number, point in enumerate(seen):
        await clear(process)
        await check(process)
        survivor = await family.another()
        driver = Driver(process.pl)
        work = await kind(driver)
        before = await picture(process)
        await process.until_hit(point, work())
        process.die()
        await family.outlast(survivor)
        driver.pl = survivor.pl
        if number % 2:  # else it is the retry that finds what the other has left
            await look_after(survivor)
            await check(survivor)
            assert await picture(survivor) in (before, wanted), point
        first = await work()
        assert await picture(survivor) == wanted, point
        assert await work() == first, point
        await look_after(survivor)
        await check(survivor)
        process = survivor
    await clear(process)
    await check(process)


@pytest.mark.parametrize("running", [False, True])
async def test_one_handle_committed_by_two_processes_at_once(family: Family, running: bool) -> None:
    one, other = family.first, await family.another()
    await setting(one)
    calls = count(one)
    for number in range(10):
        handle = await one.draft(network="gibson_network", name=f"c{number}")
        if running:
            handle = await one.set_state(handle, "running")
        answers = await asyncio.gather(*(each.commit(handle) for each in (one, other, one, other)))
        assert answers == answers[:1] * 4
        assert calls["execution.prepare"] == number + 1
    await check(one)
    await check(other)


async def test_one_handle_is_not_committed_again_once_its_container_is_gone(family: Family) -> None:
    one, other = family.first, await family.another()
    handle = await one.draft(name="cookie")
    reached, go = await _hold(other, "commit.intent")
    first = await one.commit(handle)
    await one.remove("cookie")
    assert await other.commit(handle) == first
    assert not reached.is_set()
    go.set()
    assert (await one.pl.execution.list_containers(ME, e.ListContainers())).containers == ()


async def test_many_handles_of_one_container_in_two_processes(family: Family) -> None:
    one, other = family.first, await family.another()
    await setting(one)
    await one.run("sleep", "1000", name="cookie")

    async def label(each: Harness, number: int) -> None:
        handle = await each.set_labels(await each.handle("cookie"), **{f"k{number}": "v"})
        await each.commit(handle)

    await asyncio.gather(*(label((one, other)[number % 2], number) for number in range(30)))
    assert set((await one.inspect("cookie")).labels) == {f"k{number}" for number in range(30)}
    states = ("paused", "running", "stopped", "running")
    handles = [(each, await each.handle("cookie")) for each in (one, other) for _ in states]

    async def change(each: Harness, handle: str, state: str) -> None:
        with contextlib.suppress(PortlayerError):
            await each.commit(await each.set_state_at_once(handle, state))

    await asyncio.gather(*(change(*pair, state) for pair, state in zip(handles, states * 2, strict=True)))
    await check(one)


async def test_a_commit_waits_as_long_as_the_other_process_lives(family: Family) -> None:
    one, other = family.first, await family.another()
    handle = await one.set_state(await one.draft(name="cookie"), "running")
    reached, go = await _hold(one, "commit.done.Prepare")
    slow = asyncio.ensure_future(one.commit(handle))
    await reached.wait()
    calls = count(one)
    waiting = asyncio.ensure_future(other.commit(handle))
    for _ in range(5):
        await family.outlast(one, other)
        await other.engine.recovery.recover_all()
    assert not waiting.done()
    assert not {"execution.prepare", "execution.remove", "storage.make_rootfs", "storage.remove_rootfs"} & calls.keys()
    go.set()
    assert await waiting == await slow
    assert calls["execution.remove"] == 0


async def test_a_waiting_commit_takes_over_from_the_dead(family: Family) -> None:
    one, other = family.first, await family.another()
    handle = await one.set_state(await one.draft(name="cookie"), "running")
    await one.until_hit("commit.done.Prepare", one.commit(handle))
    waiting = asyncio.ensure_future(other.commit(handle))
    one.die()
    await family.outlast(other)
    async with asyncio.timeout(20):
        answer = await waiting
    assert answer.state == "running"
    assert await other.commit(handle) == answer
    await check(other)


async def test_who_was_paused_for_longer_than_its_lease_leaves_it_to_others(family: Family) -> None:
    one, other = family.first, await family.another()
    await setting(one)
    handle = await one.set_state(await one.draft(network="gibson_network", name="cookie"), "running")
    reached, go = await _hold(one, "commit.done.Prepare")
    paused = asyncio.ensure_future(one.commit(handle))
    await reached.wait()
    one.pause()
    await family.outlast(other)
    answer = await other.commit(handle)
    calls = count(one)
    go.set()
    with pytest.raises(Unavailable, match="cut off"):
        await paused
    assert not calls
    assert await one.commit(handle) == answer
    assert await one.commit(await one.rename(await one.handle("cookie"), "biscuit"))
    await check(one)


async def test_a_stop_that_waits_is_given_up_with_the_lease(family: Family) -> None:
    """It would kill what another process has decided to keep."""
    one, other = family.first, await family.another()
    await one.run("sh", "-c", "trap '' TERM; while true; do sleep 1000; done", name="cookie")
    handle = await one.set_state(await one.handle("cookie"), "stopped", timeout_seconds=1000)
    stopping = asyncio.ensure_future(one.commit(handle))
    calls = count(one)
    async with asyncio.timeout(20):
        while not calls["execution.signal"]:
            await asyncio.sleep(0)
    one.pause()
    await family.outlast(other)
    await other.engine.recovery.recover_all()
    await one.engine.membership.refresh()
    with pytest.raises(Unavailable, match="cut off"):
        await stopping
    assert calls["execution.signal"] == 1
    assert (await other.inspect("cookie")).state == "running"
    await check(other)


async def test_two_that_find_the_same_intent_do_not_both_act(family: Family) -> None:
    one, *others = family.first, await family.another(), await family.another()
    handle = await one.draft(name="cookie")
    await one.until_hit("commit.done.Prepare", one.commit(handle))
    one.die()
    await family.outlast(*others)
    calls = count(one)
    await asyncio.gather(*(each.engine.recovery.recover_all() for each in others))
    assert calls["execution.remove"] == 1
    assert calls["storage.remove_rootfs"] == 1
    await check(others[0])


async def test_a_process_of_another_host_leaves_steps_to_this_one(family: Family) -> None:
    one, far = family.first, await family.another("far")
    await one.run("sleep", "1000", name="runs", host="local")
    handle = await one.set_state(await one.draft(name="cookie", host="local"), "running")
    await one.until_hit("commit.done.Prepare", one.commit(handle))
    one.die()
    await family.outlast(far)
    calls = count(far)
    with pytest.raises(Unavailable, match="host local, which is away"):
        await far.commit(handle)
    await far.engine.recovery.recover_all()
    with pytest.raises(Unavailable, match="on host local"):
        await far.commit(await far.set_state(await far.handle("runs"), "stopped"))
    assert not calls - Counter({"execution.observe": 9})
    back = await family.another(alone=True)
    assert (await back.inspect("runs")).state == "running"
    assert (await back.commit(handle)).state == "running"
    await check(back)


async def test_an_exit_is_recorded_once(family: Family) -> None:
    one, other = family.first, await family.another()
    await one.run("sleep", "1000", name="cookie")
    ((ident, incarnation),) = [(each.spec.id, each.id) for each in one.world.live()]
    other.engine.work.started("default", ident, incarnation)
    one.world.kill(incarnation)
    assert (await other.wait("cookie")).exit_code == 137
    assert (await one.wait("cookie")).exit_code == 137
    events = await one.store.range("/v/default/events/")
    assert sum(b'"container.exited"' in row.value for row in events) == 1


async def test_what_another_process_is_importing_stays(family: Family) -> None:
    """Its layers are on the disk, and no record tells of them yet."""
    one, other = family.first, await family.another()
    tar = images.tar([images.file("motd", b"another")])
    reached, go = await _hold(one, "import.kept")
    importing = asyncio.ensure_future(one.image("another", tar))
    await reached.wait()
    layers, blobs = set(one.world.layers), one.blobs()
    assert len(layers) == 2
    await other.pl.storage.sweep()  # type: ignore[attr-defined]
    await one.pl.storage.sweep()  # type: ignore[attr-defined]
    assert (set(one.world.layers), one.blobs()) == (layers, blobs)
    go.set()
    assert (await importing).names == ("another:latest",)
    await check(one)


@pytest.mark.parametrize("point", ["import.read", "import.unpacked", "import.kept"])
async def test_what_a_dead_process_was_importing_goes(family: Family, point: str, tmp_path: Path) -> None:
    one, other = family.first, await family.another()
    await one.until_hit(point, one.image("another", images.tar([images.file("motd", b"another")])))
    one.die()
    await family.outlast(other)
    assert list((tmp_path / "uploads").iterdir())
    await other.pl.storage.sweep()  # type: ignore[attr-defined]
    assert not list((tmp_path / "uploads").iterdir())
    await check(other)


async def test_what_could_not_be_removed_is_removed_later(family: Family) -> None:
    """Nobody has died: the host said no."""
    one = family.first
    await one.image("another", images.tar([images.file("motd", b"another")]))
    one.world.fail("storage.remove_layer", SubstrateFailed("not now"))
    with pytest.raises(SubstrateFailed):
        await one.pl.storage.delete_image(ME, s.DeleteImage(ref="another"))
    assert len(one.world.layers) == 2
    await one.pl.storage.sweep()  # type: ignore[attr-defined]
    await check(one)
