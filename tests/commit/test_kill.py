"""Kill anywhere: the process dies at each failpoint of each kind of commit, and starts again."""

from __future__ import annotations

import logging

import pytest
from commit_kinds import KINDS, check, clear, picture, points, setting
from harness import Harness


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
