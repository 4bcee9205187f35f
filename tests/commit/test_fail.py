"""Fail anywhere: each step of each kind of commit says no, once."""

from __future__ import annotations

import asyncio

import pytest
from commit_edits import PORTS
from commit_kinds import KINDS, check, clear, picture, points, setting
from harness import ME, Harness

from portlayer.model.errors import AlreadyExists, Conflict, SubstrateFailed, Unavailable
from portlayer.model.execution import Committed, Discard
from portlayer.model.network import NetworkRef
from portlayer.model.service import Subscribe
from portlayer.model.storage import Nothing
from portlayer.substrates.memory.world import Step


@pytest.mark.parametrize("name", KINDS)
async def test_a_step_that_fails_is_undone_and_named(harness: Harness, name: str) -> None:
    kind = KINDS[name]
    await setting(harness)
    seen, wanted = await points(harness, kind)
    for point in [point for point in seen if point.startswith("commit.before.")]:
        await clear(harness)
        await check(harness)
        work = await kind(harness)
        before = await picture(harness)
        failed: list[str] = []

        async def fail(now: str, failed: list[str] = failed) -> None:
            if not failed:
                failed.append(now)
                raise SubstrateFailed("the host says no")

        harness.failpoints.arm(point, fail)
        try:
            await work()
        except SubstrateFailed as error:
            assert "the host says no" in error.detail
            assert error.facts["step"] == point.rpartition(".")[2]
            assert await picture(harness) == before
            await check(harness)
            await work()
        except Unavailable:  # of several that were to be stopped some are: there is no way back
            assert (name, point) == ("stop several", "commit.before.Stop")
            assert await picture(harness) == before
            await work()
        assert failed == [point]
        if not point.endswith("Release"):
            assert await picture(harness) == wanted
        harness.failpoints.disarm()
        await check(harness)
    await clear(harness)
    await check(harness)


async def test_an_undo_that_fails_is_tried_again(harness: Harness) -> None:
    await setting(harness)
    handle = await harness.set_state(await harness.draft(network="gibson_network", name="cookie"), "running")
    harness.world.fail("network.plug", SubstrateFailed("no link"))

    def refuse(now: Step) -> None:
        if now.name == "execution.remove":
            raise SubstrateFailed("cannot be killed")

    relent = harness.world.before(refuse)
    with pytest.raises(SubstrateFailed, match="no link"):
        await harness.commit(handle)
    ready = await harness.pl.service.ready(ME, Nothing())
    assert ready.ready
    assert ready.checks["commits"].startswith("1 can neither")
    assert "portlayer_commits_stuck 1" in await harness.pl.service.metrics(ME, Nothing())
    events = await harness.pl.service.events(ME, Subscribe(since="0"))
    async with asyncio.timeout(20):
        while (told := (await anext(events)).event).type != "container.stuck":
            pass
    assert (told.attributes["step"], told.attributes["reason"]) == ("Prepare", "cannot be killed")
    relent()
    async with asyncio.timeout(20):
        while harness.world.incarnations:
            await asyncio.sleep(0.01)
    await check(harness)
    assert (await harness.commit(handle)).state == "running"


async def test_a_commit_that_gets_stuck_again_is_told_of_again(harness: Harness) -> None:
    await setting(harness)
    handle = await harness.draft(network="gibson_network", name="cookie")
    for times in (1, 2):
        harness.world.fail("network.plug", SubstrateFailed("no link"))
        harness.world.fail("execution.remove", SubstrateFailed("cannot be killed"))
        with pytest.raises(SubstrateFailed, match="no link"):
            await harness.commit(handle)
        await check(harness)
        events = await harness.pl.service.events(ME, Subscribe(since="0"))
        told = 0
        async with asyncio.timeout(20):
            while told < times:
                told += (await anext(events)).event.type == "container.stuck"


async def test_who_loses_a_race_gives_back_its_own_and_nothing_of_the_winners(
    harness: Harness, second: Harness
) -> None:
    """Two branches of one creation, which share an address and a port; and two creations that want one name."""
    await setting(harness)
    base = await harness.draft(network="gibson_network", ports=PORTS, volume="jar", name="cookie")
    branches = [await harness.set_state(await harness.set_labels(base, to=to), "running") for to in ("one", "other")]
    others = [await harness.draft(network="gibson_network", name="crumb") for _ in branches]
    for handles in (branches, others):
        racing = (each.commit(handle) for each, handle in zip((harness, second), handles, strict=True))
        answers = await asyncio.gather(*racing, return_exceptions=True)
        (won,) = [answer for answer in answers if isinstance(answer, Committed)]
        (lost,) = [handle for handle, answer in zip(handles, answers, strict=True) if answer is not won]
        assert isinstance(answers[handles.index(lost)], AlreadyExists | Conflict)
        await harness.pl.execution.discard(ME, Discard(handle=lost))
        await check(harness)
        assert await harness.commit(handles[answers.index(won)]) == won
        assert (await harness.inspect(won.id)).endpoints == won.endpoints
    network = await harness.pl.network.get_network(ME, NetworkRef(ref="gibson_network"))
    assert network.allocated_addresses == 2
    assert len(harness.world.published) == 1
