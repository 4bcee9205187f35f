"""The last step of a start, cut short: what the substrate says of the process is the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from commit_kinds import PORTS, check, setting
from harness import ME, Harness

from portlayer.model import execution as e
from portlayer.model import storage as s
from portlayer.model.errors import NotFound, SubstrateFailed
from portlayer.model.service import Subscribe
from portlayer.substrates.memory.world import Step


def once(hook: Callable[[Callable[[Step], Any]], Any], name: str) -> None:
    """The next step *name* says that it has failed, before or after it has had its effect."""
    said: list[Step] = []

    def refuse(now: Step) -> None:
        if now.name == name and not said:
            said.append(now)
            raise SubstrateFailed("the host says no")

    hook(refuse)


async def told(harness: Harness, last: str) -> list[str]:
    """The types of all events up to *last*."""
    events = await harness.pl.service.events(ME, Subscribe(since="0"))
    types: list[str] = []
    async with asyncio.timeout(20):
        while last not in types:
            types.append((await anext(events)).event.type)
    return types


async def killed_at(harness: Harness, point: str, *args: str, **fields: Any) -> str:
    """The handle of a start that was cut short at *point*, with the program at its end by now if it has one."""
    await setting(harness)
    handle = await harness.draft(*args, network="gibson_network", ports=PORTS, name="cookie", **fields)
    handle = await harness.set_state(handle, "running")
    await harness.until_hit(point, harness.commit(handle))
    return handle


async def test_a_release_that_fails_after_its_effect_is_none_that_failed(harness: Harness) -> None:
    once(harness.world.after, "execution.release")
    assert (await harness.run("sleep", "1000", name="runs")).state == "running"
    assert (await harness.inspect("runs")).start_error is None
    await check(harness)


async def test_the_exit_code_of_a_release_that_fails_after_its_effect_is_the_programs(harness: Harness) -> None:
    once(harness.world.after, "execution.release")
    await harness.run("sh", "-c", "exit 3", name="ran")
    assert (await harness.wait("ran")).exit_code == 3
    assert (await harness.inspect("ran")).start_error is None


async def test_what_could_not_be_let_go_is_stopped_and_gone(harness: Harness) -> None:
    await setting(harness)
    once(harness.world.before, "execution.release")
    done = await harness.run(network="gibson_network", ports=PORTS, name="cookie", remove_on_exit=False)
    assert (done.state, done.exit_code) == ("stopped", 255)
    assert "the host says no" in (done.start_error or "")
    assert not harness.world.incarnations
    await check(harness)
    again = await harness.set_state(await harness.handle("cookie"), "running")
    assert (await harness.commit(again)).state == "running"


async def test_of_several_that_could_not_be_let_go_each_end_is_told(harness: Harness) -> None:
    def refuse(now: Step) -> None:
        if now.name == "execution.release":
            raise SubstrateFailed("the host says no")

    harness.world.before(refuse)
    handles = [await harness.set_state(await harness.draft(name=name), "running") for name in ("one", "two")]
    await harness.pl.execution.commit(ME, e.Commit(handles=tuple(handles)))
    await harness.remove("one")
    assert (await told(harness, "container.removed")).count("container.exited") == 2


@pytest.mark.parametrize("point", ["commit.before.Release", "commit.done.Release"])
@pytest.mark.parametrize("code", [0, 3, 255])
async def test_the_true_exit_code_survives_our_death(harness: Harness, point: str, code: int) -> None:
    handle = await killed_at(harness, point, "sh", "-c", f"exit {code}")
    await harness.crash()
    assert (await harness.wait("cookie")).exit_code == code
    assert (await harness.inspect("cookie")).start_error is None
    assert (await harness.commit(handle)).state == "running"
    assert (await told(harness, "container.exited")).count("container.started") == 1
    await check(harness)


async def test_one_that_is_removed_on_exit_goes_after_our_death(harness: Harness) -> None:
    await killed_at(harness, "commit.done.Release", "true", remove_on_exit=True)
    await harness.crash()
    with pytest.raises(NotFound):
        await harness.wait("cookie", "removed")
        await harness.inspect("cookie")
    assert (await told(harness, "container.removed")).count("container.exited") == 1
    await check(harness)


@pytest.mark.parametrize("point", ["commit.before.Release", "commit.done.Release"])
async def test_a_reboot_amid_a_start_is_an_end_that_nobody_saw(harness: Harness, point: str) -> None:
    """Its policy starts it again, as it does after any reboot."""
    await killed_at(harness, point, restart_policy=e.RestartPolicy(name="always"))
    harness.world.reboot()
    await harness.crash()
    async with asyncio.timeout(20):
        while (await harness.inspect("cookie")).restarts != 1:
            await asyncio.sleep(0.01)
    assert (await harness.wait("cookie", "running")).state == "running"
    await check(harness)


async def test_a_step_that_fails_beside_a_release_is_done_later_and_changes_nothing(harness: Harness) -> None:
    """The process of before cannot be retired at first; by then its successor has run."""
    await harness.commit(await harness.draft("sh", "-c", "exit 3", name="cookie"))
    await harness.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
    handle = await harness.handle("cookie")
    handle = (await harness.pl.storage.join(ME, s.JoinVolume(handle=handle, volume="jar", destination="/data"))).handle
    once(harness.world.before, "execution.remove")
    assert (await harness.commit(await harness.set_state(handle, "running"))).state == "running"
    assert (await harness.wait("cookie")).exit_code == 3
    assert (await harness.inspect("cookie")).start_error is None
    await check(harness)
