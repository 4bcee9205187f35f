"""A lab for all tests of a module, whole before and after each of them; what it is, the module's `scene` says."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from partitions.lab import ONE_HOST, Lab, Part, laboratory
from partitions.work import Counting, Work, settles

FULL = pytest.mark.skipif(not os.environ.get("PORTLAYER_FULL"), reason="make test-partitions")


class Scene(NamedTuple):
    """layout: the processes; members: of etcd. counts_at: the process at which a container is made, and read, that
    counts all the while; fields: more of it. names: how many those want who come and go."""

    layout: Mapping[str, Part] = ONE_HOST
    members: int = 3
    counts_at: str = "rest"
    fields: Mapping[str, Any] = {}
    names: int = 3


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture(scope="module")
def built(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(tmp_path_factory.mktemp("lab"), scene.layout, scene.members) as lab:
        yield lab


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(built: Lab, scene: Scene) -> AsyncIterator[tuple[Lab, Counting]]:
    """The lab's processes, with a container that counts, and somebody attached to it."""
    try:
        await built.start()
        counting = Counting("counting", built.processes[scene.counts_at].driver)
        await counting.start(**scene.fields)
        yield built, counting
        await counting.leave()
    finally:
        await built.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def lab(running: tuple[Lab, Counting], scene: Scene) -> AsyncIterator[Lab]:
    """Whole before and after each test, without anybody's hands."""
    lab, counting = running
    yield lab
    lab.heal()
    work = Work(lab, names=scene.names)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
    await settles(lab)
    await counting.goes_on()


@pytest.fixture
def counting(running: tuple[Lab, Counting]) -> Counting:
    return running[1]
