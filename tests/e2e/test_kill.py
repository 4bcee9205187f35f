"""Kill anywhere, on real containers: the server dies at each failpoint of each kind of commit, and starts again.

`make test` dies at one failpoint a kind, chosen by the kind's name; with PORTLAYER_FULL set it is all of them.
"""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from commit_kinds import KINDS, Kind, Picture, clear, picture, setting
from e2e.killable import Killable

from portlayer.model.errors import Unavailable

FULL = bool(os.environ.get("PORTLAYER_FULL"))


@pytest.fixture
async def killable(tmp_path: Path) -> AsyncIterator[Killable]:
    """A port layer as the kinds need it. Afterwards all that it made goes by its own doing: cleanup finds nothing."""
    killable = Killable(tmp_path)
    await killable.start()
    try:
        await killable.image()
        await setting(killable)
        yield killable
        await clear(killable)
        await killable.agree()
        assert killable.host.links("v") == set()
        await killable.clear_setting()
        await killable.stop()
        assert "Nothing" in await killable.cleanup()
    finally:
        await killable.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", KINDS)
async def test_kill_anywhere(killable: Killable, name: str) -> None:
    kind = KINDS[name]
    points, wanted = await _passed(killable, kind)
    assert points
    for point in points if FULL else [_chosen(name, points)]:
        await clear(killable)
        await _dies_at(killable, kind, point, wanted)


async def _passed(killable: Killable, kind: Kind) -> tuple[list[str], Picture]:
    """The failpoints that the kind passes, and what it leads to."""
    work = await kind(killable)
    before = len(killable.passed())
    await work()
    return list(dict.fromkeys(killable.passed()[before:])), await picture(killable)


def _chosen(name: str, points: list[str]) -> str:
    return points[zlib.crc32(name.encode()) % len(points)]


async def _dies_at(killable: Killable, kind: Kind, point: str, wanted: Picture) -> None:
    work = await kind(killable)
    before = await picture(killable)
    await killable.kill()
    await killable.start(f"{point}=kill")
    with pytest.raises(Unavailable):
        await work()
    assert await killable.end() == -signal.SIGKILL, point
    await killable.start()
    assert await picture(killable) in (before, wanted), point
    await killable.agree()
    first = await work()
    assert await picture(killable) == wanted, point
    assert await work() == first, point
    await killable.agree()
