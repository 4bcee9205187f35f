"""Each process cut from each other and from etcd, etcd's leader killed and cut off, a process paused for longer than
its lease, the quota filled: nothing has two owners, nobody waits for ever, containers run on, all heals by itself.

The longest are for `make test-partitions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess

import pytest
from driver import ME
from partitions.conftest import FULL
from partitions.lab import LONGER_THAN_LEASE, Host, Lab, within
from partitions.work import CALL_SECONDS, HEAL_SECONDS, Counting, Work, again, is_refused

from portlayer.model import service as v
from portlayer.model import storage as s
from portlayer.model.errors import Unavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")


@FULL
@pytest.mark.parametrize("name", ["rest", "storage", "network"])
async def test_a_process_that_is_cut_from_etcd(lab: Lab, counting: Counting, name: str) -> None:
    cut = lab.processes[name]
    others = [process for process in lab.processes.values() if name == "storage" and process is not cut]
    work = Work(lab)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        cut.host.cut(*lab.stores)
        if name == "storage":  # what it passes on to others needs no store of its own
            await is_refused(lambda: cut.driver.pl.storage.list_images(ME, s.ListImages()))
            await work.succeeds_at(cut)
        else:
            await work.fails_at(cut)
        await asyncio.sleep(LONGER_THAN_LEASE)
        await counting.goes_on()
        await work.succeeds_at(*others)
        cut.host.heal()
        await work.succeeds_at(*lab.processes.values())
    assert work.slowest < CALL_SECONDS


@FULL
@pytest.mark.parametrize("ways", [("in", "out"), ("in",), ("out",)])
@pytest.mark.parametrize(("one", "other"), [("storage", "rest"), ("network", "rest"), ("storage", "network")])
async def test_processes_that_are_cut_from_each_other(lab: Lab, one: str, other: str, ways: tuple[str, ...]) -> None:
    near, far = lab.processes[one], lab.processes[other]
    work = Work(lab)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        near.host.cut(far.host, ways=ways)
        await work.fails_at(near)
        await asyncio.sleep(LONGER_THAN_LEASE)
        near.host.heal()
        await work.succeeds_at(*lab.processes.values())
    assert work.slowest < CALL_SECONDS


async def test_etcds_leader_is_killed(lab: Lab, counting: Counting) -> None:
    work = Work(lab)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        leader = await lab.etcd.leader()
        lab.etcd.kill(leader)
        await work.succeeds_at(*lab.processes.values())
        await counting.goes_on()
        await asyncio.to_thread(lab.etcd.start, leader)
        await work.succeeds_at(*lab.processes.values())
    assert work.slowest < CALL_SECONDS


@FULL
@pytest.mark.parametrize("how", ["paused", "cut from the others", "cut from all"])
async def test_etcds_leader_is_there_and_of_no_use(lab: Lab, how: str) -> None:
    work = Work(lab)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        leader = await lab.etcd.leader()
        host = lab.host_of(leader)
        if how == "paused":
            lab.etcd.signal(leader, signal.SIGSTOP)
        else:
            others = lab.stores if how == "cut from the others" else lab.hosts.values()
            host.cut(*(one for one in others if one is not host))
        await work.succeeds_at(*lab.processes.values())
        lab.heal()
        await work.succeeds_at(*lab.processes.values())
    assert work.slowest < CALL_SECONDS


@FULL
async def test_etcd_has_no_majority(lab: Lab, counting: Counting) -> None:
    work = Work(lab)
    rest = lab.processes["rest"]
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        lab.etcd.kill(*lab.etcd.members[:2])
        for process in lab.processes.values():
            await work.fails_at(process)
        with pytest.raises(Unavailable) as told:
            async with within(CALL_SECONDS):
                await rest.driver.inspect("counting")
        assert told.value.facts["retry_after_seconds"]
        await counting.goes_on()
        await asyncio.to_thread(lab.etcd.start, *lab.etcd.members[:2])
        await work.succeeds_at(*lab.processes.values())
    assert work.slowest < CALL_SECONDS


@FULL
async def test_a_process_that_is_paused_for_longer_than_its_lease(lab: Lab, counting: Counting) -> None:
    rest, network = lab.processes["rest"], lab.processes["network"]
    work = Work(lab)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        handle = await network.driver.set_state(await network.driver.draft("sleep", "9", name="slow"), "running")
        slow = asyncio.create_task(network.driver.commit(handle))
        await asyncio.sleep(0)
        rest.signal(signal.SIGSTOP)
        with contextlib.suppress(Unavailable):
            async with within(CALL_SECONDS):
                await slow
        await work.fails_at(network)
        await asyncio.sleep(LONGER_THAN_LEASE)
        rest.signal(signal.SIGCONT)
        await counting.goes_on()
        await work.succeeds_at(*lab.processes.values())
    done = await again(lambda: network.driver.commit(handle))
    assert await rest.driver.commit(handle) == done
    await rest.driver.remove("slow", force=True)


@FULL
async def test_a_process_that_is_killed_while_it_is_cut_off_leaves_nothing(lab: Lab, counting: Counting) -> None:
    rest = lab.processes["rest"]
    work = Work(lab)
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        rest.host.cut(*lab.stores)
        await work.fails_at(rest)
        await rest.kill()
        rest.host.heal()
        await rest.start()
        await counting.attach()
        await work.succeeds_at(*lab.processes.values())


async def test_etcd_is_full(lab: Lab, counting: Counting) -> None:
    """Somebody else's records fill it, and their history; once they are gone, it heals."""
    work = Work(lab)
    rest, storage = lab.processes["rest"], lab.processes["storage"]
    async with work.going_on():
        await work.succeeds_at(*lab.processes.values())
        fill(lab, lab.hosts["etcd-0"])
        await work.fails_at(rest)
        async with within(CALL_SECONDS):
            assert (await rest.driver.inspect("counting")).state == "running"
            listed = await again(lambda: rest.driver.pl.storage.list_images(ME, s.ListImages()))
            assert listed.images  # once it has seen that leases tell nothing any more
        await counting.goes_on()
        await work.succeeds_at(*lab.processes.values())
    assert "NOSPACE" not in lab.etcd.control("alarm", "list")
    assert (await storage.driver.inspect("counting")).state == "running"


def fill(lab: Lab, host: Host) -> None:
    """Write one key again and again, until etcd takes no more."""
    value = "x" * 1_000_000
    for _ in range(400):
        put = ["etcdctl", "--endpoints", f"{host.address}:2379", "put", "others/key"]
        done = subprocess.run([*host.inside, *put], input=value, text=True, capture_output=True, check=False)
        if "database space exceeded" in done.stderr:
            return
        assert done.returncode == 0, done.stderr
    raise AssertionError("etcd is not full yet")


async def test_events_go_on_without_gaps(lab: Lab) -> None:
    """Whoever reads them at a process that is cut from etcd meanwhile sees each of them, once, in order."""
    rest, network = lab.processes["rest"], lab.processes["network"]
    seen: list[str] = []

    async def come_and_go(name: str) -> None:
        done = await rest.driver.run("sleep", "1000", name=name)
        await rest.driver.remove(done.id, force=True)

    async def read() -> None:
        events = await network.driver.pl.service.events(ME, v.Subscribe(since="now"))
        async for one in events:
            seen.append(f"{one.event.type} {one.event.name}")  # noqa: PERF401

    reading = asyncio.create_task(read())
    async with asyncio.timeout(HEAL_SECONDS):
        while "container.removed first" not in seen:  # its reader may still be on its way
            await come_and_go("first")
            await asyncio.sleep(0.05)
    network.host.cut(*lab.stores)
    for name in ("e0", "e1"):
        await come_and_go(name)
    await asyncio.sleep(1)
    network.host.heal()
    async with asyncio.timeout(HEAL_SECONDS):
        while "container.removed e1" not in seen:
            assert not reading.done()
            await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    told = [one for one in seen if one.startswith(("container.created e", "container.removed e"))]
    assert told == [f"container.{what} {name}" for name in ("e0", "e1") for what in ("created", "removed")]
