"""A gate: how many go through, in which order, and who is told to come again."""

from __future__ import annotations

import asyncio

import pytest
from virtualtime import VirtualTime

from portlayer.company import Company
from portlayer.components import admission
from portlayer.components.admission import Gate, Held, Place, tell_of
from portlayer.metrics import Metrics
from portlayer.model.bounds import Bounds
from portlayer.model.errors import Unavailable


@pytest.fixture(autouse=True)
async def time() -> VirtualTime:
    return VirtualTime()


def gate(
    at_once: int = 2, at_once_per_vch: int = 2, queued: int = 100, company: Company | None = None, **more: float
) -> Gate:
    per_vch = int(more.pop("queued_per_vch", queued))
    bounds = Bounds(at_once=at_once, at_once_per_vch=at_once_per_vch, queued=queued, queued_per_vch=per_vch, **more)
    return Gate("commits", bounds, company)


async def settle() -> None:
    """All that can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


class Crowd:
    """Callers at a gate. order: the VCHs of those that were let through, as they were; places: those that are held."""

    def __init__(self, at: Gate) -> None:
        self._gate = at
        self.order: list[str] = []
        self.places: list[Place] = []
        self.refused: list[Unavailable] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, vch: str, times: int = 1) -> None:
        self.tasks += [asyncio.create_task(self._one(vch)) for _ in range(times)]
        await settle()

    async def _one(self, vch: str) -> None:
        try:
            place = await self._gate.admit(vch)
        except Unavailable as error:
            self.refused.append(error)
        else:
            self.order.append(vch)
            self.places.append(place)

    async def leave(self) -> None:
        self.places.pop(0).leave()
        await settle()

    async def all_leave(self) -> None:
        while self.places:
            await self.leave()

    async def until(self, order: str) -> None:
        """Those with these VCHs were let through."""
        async with asyncio.timeout(5):
            while " ".join(self.order) != order:
                await asyncio.sleep(0.001)


async def test_as_many_as_there_is_room_for_run_and_the_others_in_their_order() -> None:
    crowd = Crowd(gate(at_once=3, at_once_per_vch=3))
    await crowd.come("a", 10)
    assert len(crowd.places) == 3
    for left in range(9, 2, -1):
        await crowd.leave()
        assert len(crowd.places) == min(3, left)
    await crowd.all_leave()
    assert len(crowd.order) == 10


async def test_who_floods_waits_for_itself() -> None:
    crowd = Crowd(gate(at_once=4, at_once_per_vch=4, queued=1000))
    await crowd.come("flood", 500)
    await crowd.come("other", 10)
    while crowd.order.count("other") < 10:
        await crowd.leave()
    turns = crowd.order[4:]
    assert turns[0] == "other"
    assert len(turns) <= 2 * 10
    await crowd.all_leave()
    assert crowd.order.count("flood") == 500


async def test_three_take_turns() -> None:
    crowd = Crowd(gate(at_once=1))
    for vch in "abc":
        await crowd.come(vch, 3)
    await crowd.all_leave()
    assert "".join(crowd.order) == "aabcabcbc"


async def test_a_vch_has_at_most_its_share_however_long_it_takes() -> None:
    crowd = Crowd(gate(at_once=4, at_once_per_vch=3))
    await crowd.come("stuck", 10)
    assert crowd.order == ["stuck"] * 3
    await crowd.come("other", 2)
    assert crowd.order == ["stuck"] * 3 + ["other"]
    crowd.places.pop().leave()
    await settle()
    assert crowd.order[-1] == "other"


async def test_exactly_as_many_as_may_wait_are_kept() -> None:
    at = gate(at_once=2, queued=50, queued_per_vch=20)
    crowd = Crowd(at)
    await crowd.come("a", 100)
    assert (len(crowd.places), len(crowd.refused)) == (2, 100 - 2 - 20)
    await crowd.come("b", 100)
    await crowd.come("c", 100)
    assert len(crowd.refused) == 300 - 2 - 50
    for error in crowd.refused:
        assert error.facts["retry_after_seconds"] >= 1
        assert error.facts["refused"] is True
    await crowd.all_leave()
    assert len(crowd.order) == 52


async def test_who_gives_up_leaves_the_line() -> None:
    crowd = Crowd(gate(at_once=1, queued=2))
    await crowd.come("a", 3)
    crowd.tasks[1].cancel()
    await settle()
    await crowd.come("a")
    assert crowd.refused == []
    await crowd.all_leave()
    assert len(crowd.order) == 3


async def test_a_turn_that_comes_to_one_who_has_just_given_up_is_not_lost() -> None:
    crowd = Crowd(gate(at_once=1))
    await crowd.come("a", 3)
    crowd.places.pop().leave()
    crowd.tasks[1].cancel()
    await settle()
    assert len(crowd.places) == 1
    await crowd.all_leave()
    assert len(crowd.order) == 2


async def test_who_waits_too_long_is_told_so_and_work_of_our_own_is_not() -> None:
    at = gate(at_once=1, queued=1, wait_seconds=0.01)
    first = await at.admit("a")
    own = asyncio.create_task(at.admit("a", patient=True))
    with pytest.raises(Unavailable, match="its turn did not come"):
        await at.admit("b")
    assert not own.done()
    others = [asyncio.create_task(at.admit("a", patient=True)) for _ in range(5)]
    first.leave()
    for waiting in (own, *others):
        (await waiting).leave()
    assert (await at.admit("b")) is not None


async def test_whoever_waits_for_something_else_makes_room_and_comes_before_the_others_of_its_vch() -> None:
    at = gate(at_once=1)
    crowd = Crowd(at)
    await crowd.come("a", 3)
    go_on = asyncio.Event()
    told: list[str] = []

    async def stop(place: Place) -> None:
        async with place.aside():
            await go_on.wait()
        told.append("stopped")
        place.leave()

    stopping = asyncio.create_task(stop(crowd.places.pop(0)))
    await settle()
    assert len(crowd.places) == 1
    go_on.set()
    await settle()
    assert told == []
    await crowd.leave()
    await stopping
    assert told == ["stopped"]
    assert len(crowd.places) == 1


async def test_an_error_in_what_is_waited_for_is_worked_on_and_a_cancellation_is_not() -> None:
    at = gate(at_once=1)
    place = await at.admit("a")
    with pytest.raises(TimeoutError):
        async with place.aside():
            raise TimeoutError
    assert at.lines["a"].running == 1
    with pytest.raises(asyncio.CancelledError):
        async with place.aside():
            raise asyncio.CancelledError
    place.leave()
    assert at.lines["a"].running == 0


async def test_what_is_begun_is_finished_without_its_caller() -> None:
    at = gate(at_once=1)
    go_on, done = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        done.set()

    caller = asyncio.create_task(at.finish("a", work))
    await settle()
    caller.cancel()
    await settle()
    assert at.lines["a"].running == 1
    go_on.set()
    await at.drain()
    assert done.is_set()
    await settle()
    assert at.lines["a"].running == 0


async def test_a_stream_holds_its_place_until_it_ends_breaks_or_is_closed() -> None:
    async def items(error: Exception | None = None):
        yield b"x"
        if error:
            raise error

    at = gate(at_once=1, queued=0)
    read = Held(await at.admit("a"), items())
    with pytest.raises(Unavailable):
        await at.admit("a")
    assert [item async for item in read] == [b"x"]
    broken = Held(await at.admit("a"), items(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        assert [item async for item in broken]
    never_read = Held(await at.admit("a"), items())
    await never_read.aclose()
    (await at.admit("a")).leave()


async def test_vchs_that_come_and_go_leave_nothing_but_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_VCHS", 1)
    at, metrics = gate(at_once=1, queued=1), Metrics()
    tell_of([at], metrics)
    crowd = Crowd(at)
    await crowd.come("first")
    for name in ("a", "b", "c"):
        await crowd.come(name)
        await crowd.come(name)
    await crowd.all_leave()
    assert (crowd.order, len(crowd.refused)) == (["first", "a"], 5)
    assert list(at.lines) == ["first"]
    for name, value in (("admitted_total", 1), ("refused_total", 5), ("waiting", 0), ("running", 0)):
        assert f'portlayer_queue_{name}{{kind="commits",vch="(others)"}} {value}' in metrics.text()
    await crowd.come("b")
    assert crowd.order == ["first", "a", "b"]
    await crowd.all_leave()


async def test_who_steps_aside_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_VCHS", 0)
    at = gate(at_once=1)
    crowd = Crowd(at)
    aside = await at.admit("a")
    async with aside.aside():
        await crowd.come("a")
        await crowd.leave()
        await crowd.come("a", 2)
        returning = asyncio.create_task(crowd.leave())
    await returning
    aside.leave()
    await settle()
    await crowd.all_leave()
    assert crowd.order == ["a", "a", "a"]
    assert not at.lines


async def test_metrics_tell_of_each_vch() -> None:
    crowd = Crowd(gate(at_once=1, queued=2))
    await crowd.come("a", 5)
    metrics = Metrics()
    tell_of([crowd._gate], metrics)
    lines = metrics.text().splitlines()
    for name, value in (("running", 1), ("waiting", 2), ("admitted_total", 1), ("refused_total", 2)):
        assert f'portlayer_queue_{name}{{kind="commits",vch="a"}} {value}' in lines
    await crowd.all_leave()
    lines = metrics.text().splitlines()
    assert 'portlayer_queue_admitted_total{kind="commits",vch="a"} 3' in lines
    assert 'portlayer_queue_waiting{kind="commits",vch="a"} 0' in lines


async def test_where_others_are_about_one_has_fewer_places() -> None:
    crowd = Crowd(gate(at_once=8, at_once_per_vch=4, at_once_shared=1))
    await crowd.come("noisy", 10)
    assert crowd.order == ["noisy"] * 4, "alone it has what it may"
    await crowd.come("quiet")
    assert crowd.order[4:] == ["quiet"], "who comes waits for nobody"
    for _ in range(3):
        await crowd.leave()
    assert len(crowd.order) == 5, "what was begun ends, and nothing follows"
    await crowd.leave()
    await crowd.until("noisy noisy noisy noisy quiet noisy")
    await crowd.all_leave()


async def test_the_place_of_one_that_wants_much_rests_after_its_work_where_others_are_about() -> None:
    crowd = Crowd(gate(at_once=8, at_once_per_vch=4, at_once_shared=1))
    await crowd.come("quiet")
    await crowd.come("noisy", 3)
    assert crowd.order == ["quiet", "noisy"]
    worked = 0.05
    await asyncio.sleep(worked)
    began = asyncio.get_running_loop().time()
    crowd.places.pop().leave()
    await crowd.until("quiet noisy noisy")
    assert asyncio.get_running_loop().time() - began >= 2 * worked
    await crowd.leave()
    await crowd.come("quiet")
    assert crowd.order[3:] == ["quiet"], "who does not want much does not rest"


async def test_those_that_are_busy_alike_have_all_places_and_no_rest() -> None:
    crowd = Crowd(gate(at_once=8, at_once_per_vch=6, at_once_shared=1))
    for _ in range(8):
        await crowd.come("a")
        await crowd.come("b")
    assert len(crowd.places) == 8, "the first of each came to one that was about"
    await crowd.leave()
    assert len(crowd.places) == 8
    await crowd.all_leave()
    assert len(crowd.order) == 16


async def test_who_is_about_at_one_gate_is_so_at_another() -> None:
    company = Company()
    commits, imports = gate(company=company), Crowd(gate(4, 4, at_once_shared=1, company=company))
    place = await commits.admit("quiet")
    await imports.come("noisy", 4)
    assert imports.order == ["noisy"]
    place.leave()


async def test_who_is_alone_again_has_all_its_places() -> None:
    crowd = Crowd(gate(at_once=8, at_once_per_vch=4, at_once_shared=1, company=Company(0.05)))
    await crowd.come("quiet")
    await crowd.leave()
    await crowd.come("noisy", 6)
    assert crowd.order[1:] == ["noisy"]
    async with asyncio.timeout(5):
        while len(crowd.places) < 4:
            await asyncio.sleep(0.01)
    assert crowd.order[1:] == ["noisy"] * 4
    await crowd.all_leave()
    assert crowd.order[1:] == ["noisy"] * 6


async def test_who_still_works_is_still_about() -> None:
    crowd = Crowd(gate(at_once=8, at_once_per_vch=4, at_once_shared=1, company=Company(0.01)))
    await crowd.come("quiet")
    await asyncio.sleep(0.03)
    await crowd.come("noisy", 3)
    assert crowd.order == ["quiet", "noisy"]
    await crowd.all_leave()
