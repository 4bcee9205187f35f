"""Two hosts with containers, and one without: one is cut from all, from some, from etcd, from what it fetches.

What runs on it runs on, and stays its own; it comes back by itself, and tells what has happened meanwhile. The longest
are for `make test-partitions`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import builders
import images
import pytest
from driver import ME, Driver
from partitions.conftest import FULL, Scene
from partitions.lab import LONGER_THAN_LEASE, TWO_HOSTS, Lab, within
from partitions.work import CALL_SECONDS, Counting, Work, again, is_refused, settles, until

from portlayer.model import interaction as i
from portlayer.model import network as n
from portlayer.model.errors import AlreadyExists, InUse, ResourceExhausted

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT_SECONDS = 3
"""To be refused because of a host whose lease has ended: it is not even asked."""
NAMES = 12
"""More than are stuck where nobody can remove them."""
PORT = n.Port(container_port=80, host_port=8080)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """What counts runs on host b, and is read there."""
    return Scene(TWO_HOSTS, members=1, counts_at="b", fields={"host": "b", "ports": (PORT,)}, names=NAMES)


@pytest.fixture
def a(lab: Lab) -> Driver:
    return lab.processes["a"].driver


@pytest.fixture
def b(lab: Lab) -> Driver:
    return lab.processes["b"].driver


def others(lab: Lab) -> list[Any]:
    """All hosts but b."""
    return [host for name, host in lab.hosts.items() if name != "b"]


async def state(driver: Driver, ref: str) -> str:
    return (await again(lambda: driver.inspect(ref))).state


def intents(lab: Lab) -> list[str]:
    return [key for key in lab.laws.records("/v/default/") if "/intents/" in key]


async def test_a_host_that_is_cut_from_everything(lab: Lab, counting: Counting, a: Driver, b: Driver) -> None:
    await a.network("small", subnets=(n.Subnet(subnet="10.9.0.0/29"),))
    had = (await a.run("sleep", "1000", name="mortal", host="b", network="small")).endpoints[0].address
    stubborn = await a.run("sh", "-c", "trap '' TERM; while :; do sleep 1; done", name="stubborn", host="b")
    stop = await b.set_state(await b.handle("stubborn"), "stopped", timeout_seconds=2)
    touched = await a.set_labels(await a.handle("counting"), touched="yes")
    touched_there = await b.set_labels(await b.handle("counting"), touched="there")
    work = Work(lab, names=NAMES)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        stopping = asyncio.create_task(b.commit(stop))
        await until(lambda: any(stubborn.id in key for key in intents(lab)))
        lab.hosts["b"].cut(*others(lab))
        there, here = is_refused(lambda: b.commit(touched_there)), is_refused(lambda: a.commit(touched))
        await asyncio.gather(there, here, until_away(a))
        async with within(PROMPT_SECONDS):
            await is_refused(lambda: a.commit(touched))
            await is_refused(lambda: a.pl.interaction.logs(ME, i.Logs(ref="counting")))
            await is_refused(lambda: a.draft(host="b"))
        await work.succeeds_at(lab.processes["a"], lab.processes["c"])
        with pytest.raises(AlreadyExists):
            await a.commit(await a.draft(name="counting"))
        await nobody_gets(a, had)
        await counting.goes_on()
        kill(lab, (await again(lambda: a.inspect("mortal"))).id)
        assert any(stubborn.id in key for key in intents(lab)), "b's own to settle"
        lab.hosts["b"].heal()
        await work.succeeds_at(*lab.processes.values())
    assert work.slowest < CALL_SECONDS
    await settles(lab)
    for driver in (a, b):
        assert await state(driver, "counting") == "running"
        assert (await driver.inspect("mortal")).state == "stopped"
        assert (await driver.inspect("mortal")).exit_code == 137
    await asyncio.gather(stopping, return_exceptions=True)
    assert (await again(lambda: b.commit(stop))).state == "stopped"
    with pytest.raises((AlreadyExists, InUse)):
        await again(lambda: b.run(host="b", network="lan", ports=(PORT,)))
    for name in ("mortal", "stubborn"):
        await a.remove(name, force=True)


async def until_away(driver: Driver) -> None:
    """What runs on b is unknown to *driver*."""
    async with asyncio.timeout(3 * LONGER_THAN_LEASE):
        while await state(driver, "counting") != "unknown":
            await asyncio.sleep(0.1)


async def nobody_gets(driver: Driver, address: str) -> None:
    """*address* of network small, however many want one of it."""
    made = []
    with pytest.raises(ResourceExhausted):
        while True:
            made.append(await driver.commit(await driver.draft(network="small", host="a")))
    assert made
    assert address not in [one.endpoints[0].address for one in made]
    for one in made:
        await driver.remove(one.id)


def kill(lab: Lab, container: str) -> None:
    (pid,) = [one.pid for one in lab.views["b"].processes() if one.container == container]
    os.kill(pid, signal.SIGKILL)


@FULL
async def test_a_host_that_is_cut_from_the_others_and_not_from_etcd(
    lab: Lab, counting: Counting, a: Driver, b: Driver
) -> None:
    """It lives, so nothing of it is unknown; what needs nobody else is done there."""
    touched = await a.set_labels(await a.handle("counting"), touched="yes")
    touched_there = await b.set_labels(await b.handle("counting"), there="yes")
    lab.hosts["b"].cut(lab.hosts["a"], lab.hosts["c"])
    await is_refused(lambda: a.commit(touched))
    assert (await b.commit(touched_there)).state == "running"
    assert (await b.run("sleep", "1000", name="alone", host="b")).state == "running"
    await is_refused(lambda: b.draft(network="lan"))
    await is_refused(lambda: b.draft(host="a", network="lan"))
    await asyncio.sleep(LONGER_THAN_LEASE)
    for driver in (a, b):
        assert await state(driver, "counting") == "running"
        assert await state(driver, "alone") == "running"
    await counting.goes_on()
    lab.hosts["b"].heal()
    assert (await again(lambda: a.commit(touched))).state == "running"
    await again(lambda: a.remove("alone", force=True))


@FULL
async def test_a_host_that_is_cut_from_etcd_only(lab: Lab, counting: Counting, a: Driver, b: Driver) -> None:
    touched = await a.set_labels(await a.handle("counting"), touched="again")
    work = Work(lab, names=NAMES)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        lab.hosts["b"].cut(*lab.stores)
        await work.fails_at(lab.processes["b"])
        await is_refused(lambda: a.commit(touched))
        await until_away(a)
        async with within(PROMPT_SECONDS):
            await is_refused(lambda: a.commit(touched))
        await work.succeeds_at(lab.processes["a"], lab.processes["c"])
        await counting.goes_on()
        lab.hosts["b"].heal()
        await work.succeeds_at(*lab.processes.values())
    assert (await again(lambda: a.commit(touched))).state == "running"
    assert work.slowest < CALL_SECONDS


@FULL
async def test_a_layer_on_its_way_is_cut(lab: Lab, a: Driver, b: Driver) -> None:
    much = images.tar([images.file("much", os.urandom(192 << 20))])
    await a.archive(images.oci_archive(images.Built([builders.layer()[1], much], "much:latest", {"Cmd": ["sh"]})))
    state_of_b = lab.views["b"].state
    before = lab.views["b"].trees("layers")
    handle = await b.draft(image="much", name="much", host="b")
    commit = asyncio.create_task(b.commit(handle))
    await until(lambda: size(state_of_b / "fetching") > 8 << 20)
    lab.hosts["b"].cut(lab.hosts["a"])
    assert not commit.done()
    await is_refused(lambda: commit)
    assert size(state_of_b / "fetching") == 0
    assert len(lab.views["b"].trees("layers") - before) <= 1, "the small one, whole"
    lab.hosts["b"].heal()
    assert (await again(lambda: b.commit(handle))).state == "created"
    assert len(lab.views["b"].trees("layers") - before) == 2
    assert size(state_of_b / "fetching") == 0
    await b.remove("much")


def size(directory: Path) -> int:
    """Of all files in *directory*, some of which may be going."""
    found = 0
    for file in directory.iterdir():
        try:
            found += file.stat().st_size
        except FileNotFoundError:
            continue
    return found
