"""Short calls of several VCHs take turns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rest.standins import World, sample
from virtualtime import VirtualTime

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model.caller import Caller
from portlayer.model.storage import HandleAnswer
from portlayer.rest.client import RestClient
from portlayer.rest.server import turns
from portlayer.rest.server.turns import Turns

NOISY, QUIET = Caller(vch="noisy"), Caller(vch="quiet")


class Work:
    """Short calls that go on until they are let go. running: whose are at work, in the order in which they began."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.most: dict[str, int] = {}
        self.go_on = asyncio.Event()

    async def __call__(self, caller: Caller, _request: Any) -> HandleAnswer:
        self.running.append(caller.vch)
        self.most[caller.vch] = max(self.most.get(caller.vch, 0), self.running.count(caller.vch))
        await self.go_on.wait()
        self.running.remove(caller.vch)
        return HandleAnswer(handle="h")


async def until(work: Work, *vchs: str) -> None:
    async with asyncio.timeout(20):
        while sorted(work.running) != sorted(vchs):
            await asyncio.sleep(0.001)


def leave(client: RestClient, caller: Caller) -> asyncio.Future[Any]:
    return asyncio.ensure_future(client.network.leave(caller, n.LeaveNetwork(handle="h", network="lan")))


async def test_who_calls_alone_is_not_held_up_and_who_floods_waits_for_itself(
    client: RestClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 60.0)
    work = Work()
    world.behave("network", "leave", work)
    alone = [leave(client, NOISY) for _ in range(4)]
    await until(work, *["noisy"] * 4)
    work.go_on.set()
    await asyncio.gather(*alone)
    work.go_on.clear()
    work.most.clear()
    quiet = leave(client, QUIET)
    await until(work, "quiet")
    flood = [leave(client, NOISY) for _ in range(6)]
    await until(work, "quiet", "noisy")
    second = leave(client, QUIET)
    work.go_on.set()
    await asyncio.gather(quiet, second, *flood)
    assert work.most == {"quiet": 1, "noisy": 1}


async def test_a_call_that_waits_for_something_holds_nobody_up(client: RestClient, world: World) -> None:
    work = Work()
    world.behave("network", "leave", work)
    calls = [leave(client, QUIET), *(leave(client, NOISY) for _ in range(3))]
    await until(work, "quiet", *["noisy"] * 3)
    work.go_on.set()
    await asyncio.gather(*calls)


async def test_who_goes_away_while_it_waits_has_left_the_line() -> None:
    taking = Turns()
    order: list[int] = []
    release = asyncio.Event()

    async def one(number: int) -> None:
        async with taking.turn("noisy"):
            order.append(number)
            await release.wait()

    async with taking.turn("quiet"):
        pass
    first, second, third = [asyncio.ensure_future(one(number)) for number in range(3)]
    await asyncio.sleep(0)
    second.cancel()
    release.set()
    await asyncio.gather(first, third)
    assert order == [0, 2]
    async with taking.turn("noisy"):
        pass


async def test_what_takes_long_takes_no_turn(client: RestClient, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 60.0)
    waiting, going_on = asyncio.Event(), asyncio.Event()

    async def wait(*_: Any) -> Any:
        waiting.set()
        await going_on.wait()
        return sample(e.Waited)

    world.behave("execution", "wait", wait)
    await client.network.list_networks(QUIET, n.ListNetworks())
    long = asyncio.ensure_future(client.execution.wait(NOISY, e.Wait(ref="c")))
    await waiting.wait()
    await asyncio.wait_for(client.network.list_networks(NOISY, n.ListNetworks()), 20)
    going_on.set()
    await long


async def test_while_one_is_at_work_who_floods_pauses_and_who_does_not_does_not() -> None:
    taking, time, loop = Turns(), VirtualTime(), asyncio.get_running_loop()

    async def call(vch: str) -> None:
        """A call that keeps the loop busy for 5 ms."""
        with taking.work(vch):
            await asyncio.sleep(0)
            async with taking.turn(vch):
                time.passes(0.005)

    async def took(vch: str, count: int, at_once: int) -> float:
        began = loop.time()
        for _ in range(count):
            await asyncio.gather(*(call(vch) for _ in range(at_once)))
        return loop.time() - began - count * at_once * 0.005

    await took("quiet", 1, 1)
    await asyncio.sleep(turns.LATELY_SECONDS * 2)
    assert await took("noisy", 3, 4) < 0.05, "nobody else is at work"
    with taking.work("quiet"):
        await asyncio.sleep(turns.MOST_SECONDS * 2)
        assert await took("other", 10, 1) < 0.05, "one by one is no flood"
        assert await took("noisy", 3, 4) > 0.08
    await took("quiet", 1, 1)
    assert await took("noisy", 3, 4) > 0.02, "who calls one by one is at work in between"


@pytest.mark.parametrize("seconds", [1, 10], ids=["beside each other", "one after another"])
async def test_vchs_that_come_and_go_leave_nothing(seconds: int) -> None:
    time, shared = VirtualTime(), Turns()
    for number in range(200):
        vch = f"vch-{number}"
        with shared.work(vch):
            async with shared.turn(vch):
                pass
        time.passes(seconds)
    kept = [*vars(shared).values(), *vars(shared._company).values()]
    assert max(len(each) for each in kept if isinstance(each, dict)) < 20
