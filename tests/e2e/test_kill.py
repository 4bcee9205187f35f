"""Kill and fail anywhere, on real containers: the server dies at each failpoint of each kind of commit, and starts
again; or each step says no, once. What says no for reasons of its own is in tests/linux/test_refusals.py.

`make test` dies at one failpoint, chosen by the kind's name, of the kinds that touch most of the host. With
PORTLAYER_FULL set it is every failpoint of every kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import images
import pytest
from commit_kinds import KINDS, PERSISTENT, Kind, Picture, clear, fallible, picture, setting
from driver import ME
from e2e.killable import Killable

from portlayer.model import storage as s
from portlayer.model.errors import SubstrateFailed, Unavailable
from portlayer.model.service import Subscribe

FULL = bool(os.environ.get("PORTLAYER_FULL"))
CHOSEN = [name for name in KINDS if FULL or " when " not in name or name.endswith("when running")]
FAILING = {
    *("create and start", "several of each sort", "publish when running", "leave when running"),
    *("running to paused", "paused to stopped", "resources when running"),
}
FORWARD = {*PERSISTENT, "stop several"}
"""What fails in these is done later: once one of several has stopped there is no way back."""
INSTANTS = range(1, 200, 5) if FULL else (3, 30, 60)


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
@pytest.mark.parametrize("name", CHOSEN)
async def test_kill_anywhere(killable: Killable, name: str) -> None:
    kind = KINDS[name]
    points, wanted = await _passed(killable, kind)
    assert points
    for point in points if FULL else [_chosen(name, points)]:
        await clear(killable)
        await _dies_at(killable, kind, point, wanted)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in KINDS if name not in FORWARD and (FULL or name in FAILING)])
async def test_fail_anywhere(killable: Killable, name: str) -> None:
    """One server, at which the first try fails at the first step, the second at the second, until none is left."""
    kind = KINDS[name]
    points, wanted = await _passed(killable, kind)
    await clear(killable)
    work = await kind(killable)
    before = await picture(killable)
    await killable.restart(";".join(f"{point}=raise-once" for point in fallible(points)))
    for point in fallible(points):
        with pytest.raises(SubstrateFailed) as caught:
            await work()
        step = point.rpartition(".")[2]
        assert caught.value.facts["step"] == step
        assert caught.value.detail.endswith(f"{step}: Failpoint {point} was armed.")
        assert await picture(killable) == before, point
        await killable.agree()
    first = await work()
    assert await picture(killable) == wanted
    assert await work() == first
    await killable.agree()


@pytest.mark.parametrize("step", ["Prepare", "Plug"])
async def test_an_undo_that_fails_is_told_of_and_done_later(killable: Killable, step: str) -> None:
    work = await KINDS["create and start"](killable)
    before = await picture(killable)
    await killable.restart(f"commit.done.Publish=raise-once;commit.undo.{step}=raise-once")
    with pytest.raises(SubstrateFailed) as caught:
        await work()
    assert caught.value.facts["step"] == "Publish"
    events = await killable.pl.service.events(ME, Subscribe(since="0"))
    async with asyncio.timeout(20):
        while (told := (await anext(events)).event).type != "container.stuck":
            pass
    assert (told.attributes["step"], "was armed" in told.attributes["reason"]) == (step, True)
    await killable.agree()
    assert await picture(killable) == before
    await work()
    await killable.agree()


@pytest.mark.timeout(600)
async def test_killed_at_any_instant(killable: Killable) -> None:
    """Also where there is no failpoint: networks, volumes and images come and go, too."""
    for milliseconds in INSTANTS:
        busy = asyncio.ensure_future(_live(killable))
        await asyncio.sleep(milliseconds / 1000)
        killable.strike()
        with contextlib.suppress(Unavailable):
            await busy
        assert await killable.end() == -signal.SIGKILL
        await killable.start()
        await killable.agree()
        await clear(killable)
        await killable.agree()


async def _live(killable: Killable) -> None:
    """Make all there is, and remove it, again and again."""
    tar = images.tar([images.file("motd", b"another")])
    while True:
        await killable.network("second")
        await killable.pl.storage.create_volume(ME, s.CreateVolume(name="crate"))
        await killable.image("another", tar)
        await killable.run("sleep", "1000", network="second", volume="crate", name="cookie")
        await killable.commit(await killable.set_state(await killable.handle("cookie"), "stopped", timeout_seconds=0))
        await clear(killable)


async def _passed(killable: Killable, kind: Kind) -> tuple[list[str], Picture]:
    """The failpoints that the kind passes, and what it leads to."""
    work = await kind(killable)
    await killable.restart()
    before = len(killable.passed())
    await work()
    await killable.agree()
    return list(dict.fromkeys(killable.passed()[before:])), await picture(killable)


def _chosen(name: str, points: list[str]) -> str:
    return points[zlib.crc32(name.encode()) % len(points)]


async def _dies_at(killable: Killable, kind: Kind, point: str, wanted: Picture) -> None:
    work = await kind(killable)
    before = await picture(killable)
    await killable.restart(f"{point}=kill")
    answer = None
    with contextlib.suppress(Unavailable):
        answer = await work()
    assert await killable.end() == -signal.SIGKILL, point
    await killable.start()
    assert await picture(killable) in (before, wanted), point
    await killable.agree()
    first = await work()
    assert answer in (None, first), point
    assert await picture(killable) == wanted, point
    assert await work() == first, point
    await killable.agree()
