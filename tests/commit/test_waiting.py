"""A wait tells the end of what ran when it began, however late it looks; over each store."""

from __future__ import annotations

import asyncio

import pytest
from harness import Harness

from portlayer.components.waiting import Wait
from portlayer.model import execution as e
from portlayer.substrates.memory.process import Incarnation


async def begin(harness: Harness, ref: str) -> Wait:
    """A wait that has begun, and has not looked again yet."""
    revision = await harness.store.revision()
    record, seen = await harness.drafts.records.find_container("default", ref)
    return Wait(harness.store, "default", record.spec.id, seen, revision)


async def never() -> None:
    raise AssertionError("it looks for another change")


async def end(harness: Harness, code: int) -> None:
    """The only process ends, and that is recorded."""
    one: Incarnation
    (one,) = harness.world.live()
    one.end(code)
    async with asyncio.timeout(20):
        while (await harness.inspect("cookie")).state == "running" and one.id in harness.world.incarnations:
            await asyncio.sleep(0.01)


async def start(harness: Harness) -> None:
    await harness.commit(await harness.set_state(await harness.handle("cookie"), "running"))


@pytest.fixture
async def host(harness: Harness) -> Harness:
    await harness.image()
    return harness


async def test_an_end_that_another_start_has_followed(host: Harness) -> None:
    await host.run("sleep", "1000", name="cookie")
    wait = await begin(host, "cookie")
    for code in (7, 8):
        await end(host, code)
        await start(host)
    assert await wait.until_end(never) == e.Waited(exit_code=7, state="stopped")


async def test_an_end_that_others_have_followed_and_the_last_too(host: Harness) -> None:
    await host.run("sleep", "1000", name="cookie")
    wait = await begin(host, "cookie")
    await end(host, 7)
    await start(host)
    await end(host, 8)
    assert await wait.until_end(never) == e.Waited(exit_code=7, state="stopped")


async def test_the_first_end_of_what_has_not_begun(host: Harness) -> None:
    await host.commit(await host.draft(name="cookie"))
    wait = await begin(host, "cookie")
    await start(host)
    await end(host, 7)
    await start(host)
    assert await wait.until_end(never) == e.Waited(exit_code=7, state="stopped")


async def test_the_end_of_what_has_stopped_already(host: Harness) -> None:
    await host.run("sleep", "1000", name="cookie")
    await end(host, 7)
    wait = await begin(host, "cookie")
    await start(host)
    assert await wait.until_end(never) == e.Waited(exit_code=7, state="stopped")


async def test_ends_from_before_do_not_count(host: Harness) -> None:
    await host.run("sleep", "1000", name="cookie")
    await end(host, 7)
    await start(host)
    wait = await begin(host, "cookie")
    await end(host, 8)
    await start(host)
    assert await wait.until_end(never) == e.Waited(exit_code=8, state="stopped")


@pytest.mark.parametrize(("ends", "code"), [((), 137), ((7,), 7), ((7, 8), 7)])
async def test_an_end_that_a_removal_has_followed(host: Harness, ends: tuple[int, ...], code: int) -> None:
    await host.run("sleep", "1000", name="cookie")
    wait, gone = await begin(host, "cookie"), await begin(host, "cookie")
    for number, each in enumerate(ends):
        if number:
            await start(host)
        await end(host, each)
    await host.remove("cookie", force=True)
    assert await wait.until_end(never) == e.Waited(exit_code=code, state="removed")
    last = ends[-1] if ends else 137
    assert await gone.until(lambda _: False, never) == e.Waited(exit_code=last, state="removed")


async def test_what_never_ran_is_removed_without_an_exit_code(host: Harness) -> None:
    await host.commit(await host.draft(name="cookie"))
    wait = await begin(host, "cookie")
    await host.remove("cookie")
    assert await wait.until_end(never) == e.Waited(exit_code=None, state="removed")


async def test_a_restart_policy_does_not_hide_an_end(host: Harness) -> None:
    policy = e.RestartPolicy(name="always")
    await host.run("sleep", "1000", name="cookie", restart_policy=policy)
    wait = await begin(host, "cookie")
    await end(host, 7)
    async with asyncio.timeout(20):
        while (await host.inspect("cookie")).restarts != 1:
            await asyncio.sleep(0.01)
    assert await wait.until_end(never) == e.Waited(exit_code=7, state="stopped")


async def test_a_forced_removal_tells_the_end_first(host: Harness) -> None:
    await host.run("sleep", "1000", name="cookie")
    await host.remove("cookie", force=True)
    rows = await host.store.since("/v/default/events/", 0)
    assert [row.value for row in rows if b'"exitCode":"137"' in row.value]
    assert b'"container.removed"' in rows[-1].value
