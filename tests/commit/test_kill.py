"""Kill anywhere: the process dies at each failpoint of each kind of commit, and starts again."""

from __future__ import annotations

import logging
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import get_args

import pytest
from commit_kinds import CALLS, KINDS, PERSISTENT, check, clear, fallible, picture, points, setting
from harness import Harness, until

import portlayer
from portlayer.model import plan
from portlayer.model.errors import SubstrateFailed

BEHIND = {"Release", "Unpublish", "Retire", "RemoveRootfs", "RemoveVolume"}
"""Steps of a plan's `after`, which only rolls forward."""
ELSEWHERE = {"layer.fetched", "layer.unpacked"}
"""Of a commit on a host that lacks a layer, which needs two: tests/apart/test_layers.py dies there."""


@pytest.mark.parametrize("name", KINDS)
async def test_kill_anywhere(harness: Harness, caplog: pytest.LogCaptureFixture, name: str) -> None:
    kind = KINDS[name]
    await setting(harness)
    seen, wanted = await points(harness, kind)
    assert seen
    for point in seen:
        await clear(harness)
        await check(harness)
        work = await kind(harness)
        before = await picture(harness)
        task = await harness.until_hit(point, work())
        assert not task.done() or point == "commit.end", point
        await harness.crash()
        await check(harness)
        assert await picture(harness) in (before, wanted), point
        first = await work()
        assert await picture(harness) == wanted, point
        assert await work() == first, point
        await check(harness)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    await clear(harness)
    await check(harness)


@pytest.mark.parametrize("harness", ["memory"], indirect=True)
@pytest.mark.parametrize("name", {**KINDS, **CALLS})
async def test_killed_at_each_call_outside(harness: Harness, name: str) -> None:
    """Just before and just after each that may change the host or the store, whether a failpoint is there or not."""
    kind = {**KINDS, **CALLS}[name]
    await setting(harness)
    _, wanted = await points(harness, kind)
    number, done = 0, False
    while not done:
        await clear(harness)
        await check(harness)
        work = await kind(harness)
        before = await picture(harness)
        harness.seams.hold(number)
        task = await until(harness.seams.reached, work())
        done = not harness.seams.reached.is_set()
        await harness.crash()
        await check(harness)
        assert await picture(harness) in (before, wanted), number
        first = await work()
        assert not done or first == task.result()
        assert await picture(harness) == wanted, number
        assert await work() == first, number
        await check(harness)
        number += 23 if name == "an application" else 1
    assert number > 2
    await clear(harness)
    await check(harness)


async def fail(_: str) -> None:
    raise SubstrateFailed("the host says no")


@pytest.mark.parametrize("harness", ["memory"], indirect=True)
@pytest.mark.parametrize("name", [name for name in KINDS if name not in PERSISTENT])
async def test_killed_while_it_is_undone(harness: Harness, name: str) -> None:
    """The last of the steps that may fail does, and the process dies at each failpoint of the undo."""
    kind = KINDS[name]
    await setting(harness)
    seen, wanted = await points(harness, kind)
    undone: list[str | None] = [None]
    while fallible(seen) and undone:
        point = undone.pop()
        await clear(harness)
        work = await kind(harness)
        before = await picture(harness)
        harness.failpoints.seen.clear()
        harness.failpoints.arm(fallible(seen)[-1], fail)
        if point is None:
            with pytest.raises(SubstrateFailed, match="the host says no"):
                await work()
            undone += [passed for passed in dict.fromkeys(harness.failpoints.seen) if ".undo." in passed]
            harness.failpoints.disarm()
        else:
            await harness.until_hit(point, work())
            await harness.crash()
        await check(harness)
        assert await picture(harness) == before, point
        first = await work()
        assert await picture(harness) == wanted, point
        assert await work() == first, point
        await check(harness)
    await clear(harness)
    await check(harness)


@pytest.mark.parametrize("harness", ["memory"], indirect=True)
async def test_every_failpoint_is_in_the_matrix(harness: Harness) -> None:
    """A failpoint that no kind passes is one that nobody dies at."""
    await setting(harness)
    passed: set[str] = set()
    for name, kind in KINDS.items():
        seen, _ = await points(harness, kind)
        passed |= set(seen)
        await clear(harness)
        work = await kind(harness)
        if fallible(seen) and name not in PERSISTENT:
            harness.failpoints.arm(fallible(seen)[-1], fail)
            with pytest.raises(SubstrateFailed, match="the host says no"):
                await work()
            passed |= set(harness.failpoints.seen)
            harness.failpoints.disarm()
            await work()  # or its leases would be in the way
        await clear(harness)
    steps = [step.__name__ for step in get_args(plan.AnyStep)]
    ahead = [step for step in steps if step not in BEHIND]
    wanted = {f"commit.{when}.{step}" for when in ("before", "done") for step in steps}
    wanted |= {f"commit.undo.{step}" for step in ahead}
    assert wanted <= passed
    sources = [path.read_text() for path in Path(portlayer.__file__).parent.rglob("*.py")]
    placed = {name for source in sources for name in re.findall(r'failpoints\.hit\(f?"([^"]+)"\)', source)}
    assert len(placed) > 15
    missed = {name for name in placed if not any(fnmatch(point, re.sub("{[^}]*}", "*", name)) for point in passed)}
    assert missed == ELSEWHERE
