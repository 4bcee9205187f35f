"""An application in one commit: twenty containers on three networks with volumes start, or fail, as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from commit_kinds import application, check, clear, picture, setting
from harness import ME, Harness

from portlayer.model import execution as e
from portlayer.model.errors import AlreadyExists, SubstrateFailed, Unavailable
from portlayer.model.events import Event
from portlayer.model.service import Subscribe
from portlayer.substrates.memory.world import Step


def failing(harness: Harness, name: str, nth: int, *, again: bool = False) -> Callable[[], None]:
    """The *nth* step called *name* says no. again: and ever again for the same container."""
    seen, refused = 0, ""

    def refuse(now: Step) -> None:
        nonlocal seen, refused
        if now.name != name:
            return
        seen += 1
        if seen == nth:
            refused = now.ids[0]
        if seen == nth or (again and now.ids[0] == refused):
            raise SubstrateFailed("the host says no")

    return harness.world.before(refuse)


async def test_all_of_it_starts(harness: Harness) -> None:
    await setting(harness)
    work = await application(harness)
    done = await work()
    assert [one.state for one in done.containers] == ["running"] * 20
    assert len(harness.world.live()) == 20
    assert {len(one.links) for one in harness.world.live()} == {1, 2, 3}
    assert await work() == done
    await check(harness)


@pytest.mark.parametrize("step", ["storage.make_rootfs", "storage.make_volume", "execution.prepare"])
@pytest.mark.parametrize("nth", [1, 11, 20])
async def test_a_failure_in_any_of_them_undoes_all(harness: Harness, step: str, nth: int) -> None:
    await setting(harness)
    work = await application(harness)
    before = await picture(harness)
    relent = failing(harness, step, nth)
    with pytest.raises(SubstrateFailed, match="the host says no"):
        await work()
    relent()
    assert await picture(harness) == before
    assert not harness.world.incarnations
    await check(harness)
    assert [one.state for one in (await work()).containers] == ["running"] * 20
    await check(harness)


async def test_a_name_that_is_taken_lets_none_of_them_start(harness: Harness) -> None:
    """By the first of them: nothing of the others stays."""
    await setting(harness)
    handles = [await harness.set_state(await harness.draft(name=f"c{index}"), "running") for index in range(19)]
    handles.append(await harness.set_state(await harness.draft(name="c0"), "running"))
    with pytest.raises(AlreadyExists, match="c0"):
        await harness.pl.execution.commit(ME, e.Commit(handles=tuple(handles)))
    assert not harness.world.incarnations
    await check(harness)


@pytest.mark.parametrize("nth", [2, 40, 75, 110, 150, 185, 215, 245])
async def test_killed_in_the_middle_it_is_all_or_nothing(harness: Harness, nth: int) -> None:
    """Not only at the first step of each name, as in the matrix: at the nth of them all."""
    await setting(harness)
    work = await application(harness)
    before = await picture(harness)
    passed, reached = 0, asyncio.Event()

    async def hang(_: str) -> None:
        nonlocal passed
        passed += 1
        if passed >= nth:
            reached.set()
            await asyncio.Event().wait()

    harness.failpoints.arm("*", hang)
    task = asyncio.ensure_future(work())
    waiting = asyncio.ensure_future(reached.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    assert reached.is_set(), f"there are {passed} failpoints only"
    await harness.crash()
    await check(harness)
    now = await picture(harness)
    assert now == before or [now[f"c{index}"][1] for index in range(20)] == ["running"] * 20
    done = await work()
    assert [one.state for one in done.containers] == ["running"] * 20
    assert await work() == done
    await check(harness)
    await clear(harness)
    await check(harness)


@pytest.mark.parametrize("nth", [1, 11, 20])
@pytest.mark.parametrize("killed", [False, True])
async def test_where_one_cannot_be_stopped_the_others_wait_for_it(harness: Harness, nth: int, killed: bool) -> None:
    """A death cannot be undone, so the commit goes on until it is whole; until then nothing of it shows."""
    await setting(harness)
    await (await application(harness))()
    before = await picture(harness)
    handles = [await harness.set_state_at_once(await harness.handle(f"c{index}"), "stopped") for index in range(20)]
    stop = e.Commit(handles=tuple(handles))
    relent = failing(harness, "execution.signal", nth, again=True)
    with pytest.raises(Unavailable, match="commit the same handles again"):
        await harness.pl.execution.commit(ME, stop)
    assert len(harness.world.live()) == 1
    assert await picture(harness) == before
    assert (await told(harness, "container.stuck")).attributes["step"] == "Stop"
    async with asyncio.timeout(20):
        await harness.pl.execution._reconciler.sweep()  # type: ignore[attr-defined]
    assert await picture(harness) == before
    if killed:
        await harness.crash()
        assert await picture(harness) == before
    relent()
    done = await harness.pl.execution.commit(ME, stop)
    assert isinstance(done, e.CommittedMany)
    assert [one.state for one in done.containers] == ["stopped"] * 20
    assert not harness.world.live()
    await check(harness)


async def told(harness: Harness, kind: str) -> Event:
    events = await harness.pl.service.events(ME, Subscribe(since="0"))
    async with asyncio.timeout(20):
        while (found := (await anext(events)).event).type != kind:
            pass
    return found


async def test_they_are_stopped_all_at_once(harness: Harness) -> None:
    """Each takes its time, and none waits for another."""
    for name in ("one", "two", "three"):
        await harness.run("sleep", "1000", name=name)
    handles = [await harness.set_state(await harness.handle(name), "stopped") for name in ("one", "two", "three")]
    asked: list[str] = []
    everybody = asyncio.Event()

    async def meet(now: Step) -> None:
        if now.name == "execution.wait" and now.ids[0] not in asked:
            asked.append(now.ids[0])
            if len(asked) == 3:
                everybody.set()
            async with asyncio.timeout(20):
                await everybody.wait()

    harness.world.before(meet)
    await harness.pl.execution.commit(ME, e.Commit(handles=tuple(handles)))
    assert len(asked) == 3
