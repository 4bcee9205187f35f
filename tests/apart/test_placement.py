"""Where containers go: by name, or where there is room; and what lives on one host alone."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from apart.cluster import EXECUTION, INTERACTION, NETWORK, STORAGE, Cluster
from driver import ME, Driver

from portlayer.interfaces.store import Delete, Transaction
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import service as m
from portlayer.model import storage as s
from portlayer.model.caller import Caller
from portlayer.model.errors import (
    Conflict,
    InvalidArgument,
    InvalidState,
    NotFound,
    PortlayerError,
    ResourceExhausted,
    Unavailable,
)
from portlayer.model.hosts import Capacity, HostRules
from portlayer.model.topology import Part, Topology
from portlayer.stores.memory import MemoryStore

THREE = Topology(
    parts=(
        Part(name="west", host="west", components=(STORAGE, EXECUTION, NETWORK, INTERACTION)),
        Part(name="east", host="east", components=(EXECUTION, NETWORK, INTERACTION)),
        Part(name="far", host="far", components=(EXECUTION, INTERACTION)),
    )
)
RULES = {
    "west": HostRules(labels={"zone": "a", "disk": "ssd"}),
    "east": HostRules(labels={"zone": "a"}),
    "far": HostRules(labels={"zone": "b"}),
}
GIB = 1 << 30


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three hosts of 4 cores and 8 GiB, with an image and a network."""
    cluster = Cluster(THREE, MemoryStore(), tmp_path, hosts=RULES)
    for world in cluster.worlds.values():
        world.capacity = Capacity(cpus=4, memory_bytes=8 * GIB)
    async with cluster:
        await cluster.driver("west").image()
        await cluster.driver("west").network()
        await until(cluster, "west", lambda hosts: all(host.state == "up" for host in hosts) and len(hosts) == 3)
        yield cluster


async def hosts_of(driver: Driver, caller: Caller = ME) -> tuple[m.HostInfo, ...]:
    return (await driver.pl.service.info(caller, s.Nothing())).hosts


async def until(cluster: Cluster, name: str, holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds(await hosts_of(cluster.driver(name))):
            await asyncio.sleep(0.01)


async def placed(driver: Driver, **fields: Any) -> str:
    """The host of a container that is created and committed."""
    done = await driver.commit(await driver.draft(**fields))
    return (await driver.inspect(done.id)).host


def asked(strategy: Any = "spread", **labels: str) -> e.Placement:
    return e.Placement(strategy=strategy, labels=labels)


async def test_a_host_may_be_named_from_every_process(cluster: Cluster) -> None:
    for door in cluster.doors:
        for host in ("west", "east", "far"):
            assert await placed(cluster.driver(door), host=host) == host
    assert {name: len(world.rootfs) for name, world in cluster.worlds.items()} == {"west": 3, "east": 3, "far": 3}


async def test_spread_is_what_nobody_has_to_ask_for(cluster: Cluster) -> None:
    found = [await placed(cluster.driver("east")) for _ in range(9)]
    assert collections.Counter(found) == {"west": 3, "east": 3, "far": 3}
    found = [await placed(cluster.driver("far"), placement=asked()) for _ in range(3)]
    assert collections.Counter(found) == {"west": 1, "east": 1, "far": 1}


async def test_pack_fills_one_host_and_goes_on_with_the_next(cluster: Cluster) -> None:
    half = e.Resources(memory_bytes=4 * GIB)
    found = [await placed(cluster.driver("west"), placement=asked("pack"), resources=half) for _ in range(6)]
    assert [len(set(found[at : at + 2])) for at in (0, 2, 4)] == [1, 1, 1]
    assert len(set(found)) == 3
    with pytest.raises(ResourceExhausted) as full:
        await placed(cluster.driver("west"), placement=asked("pack"), resources=half)
    assert full.value.facts["resource"] == "room"


async def test_labels(cluster: Cluster) -> None:
    driver = cluster.driver("far")
    assert await placed(driver, placement=asked(zone="b")) == "far"
    assert await placed(driver, placement=asked(zone="a", disk="ssd")) == "west"
    assert {await placed(driver, placement=asked("pack", zone="a")) for _ in range(3)} == {"west"}
    with pytest.raises(InvalidArgument, match="zone=c") as wrong:
        await placed(driver, placement=asked(zone="c"))
    assert wrong.value.facts["pointer"] == "/placement/labels"


async def test_what_no_host_can_do_is_refused(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    with pytest.raises(NotFound) as unknown:
        await driver.draft(host="north")
    assert unknown.value.facts == {"kind": "host", "id": "north"}
    with pytest.raises(InvalidArgument, match="either host or placement"):
        await driver.draft(host="east", placement=asked())
    for where in ({"host": "east"}, {"placement": asked()}, {}):
        for resources, pointer in (
            (e.Resources(cpus=4.5), "/resources/cpus"),
            (e.Resources(memory_bytes=9 * GIB), "/resources/memoryBytes"),
        ):
            with pytest.raises(InvalidArgument, match="ask for less") as large:
                await driver.draft(resources=resources, **where)
            assert large.value.facts["pointer"] == pointer
    made = await driver.commit(await driver.draft(name="cookie", host="far"))
    change = e.SetResources(handle=await driver.handle(made.id), resources=e.Resources(cpus=5))
    with pytest.raises(InvalidArgument, match="Host far has 4 cpus"):
        await driver.pl.execution.set_resources(ME, change)


async def test_room_is_promised_to_who_asks_for_a_placement_and_to_nobody_else(cluster: Cluster) -> None:
    driver, large = cluster.driver("west"), e.Resources(cpus=3)
    for host in ("west", "east", "far"):
        assert await placed(driver, host=host, resources=large) == host
    with pytest.raises(ResourceExhausted, match="room left for 3 cpus"):
        await driver.draft(placement=asked(), resources=large)
    assert await placed(driver, resources=large) in {"west", "east", "far"}
    assert await placed(driver, host="west", resources=large) == "west"
    await placed(driver, placement=asked(), resources=e.Resources(memory_bytes=GIB))


async def test_of_those_who_race_for_the_last_place_as_many_win_as_have_room(cluster: Cluster) -> None:
    quarter = e.Resources(cpus=1)
    drivers = [cluster.driver(name) for name in cluster.doors]
    handles = [await drivers[0].draft(placement=asked(zone="b"), resources=quarter) for _ in range(20)]

    async def commit(number: int) -> str:
        try:
            await drivers[number % 3].commit(handles[number])
        except ResourceExhausted as error:
            return error.detail
        return ""

    said = await asyncio.gather(*(commit(number) for number in range(20)))
    assert said.count("") == 4
    assert {one for one in said if one} == {"Host far has no room left for 1 cpus; create it again, for another host."}
    far = next(host for host in await hosts_of(drivers[1]) if host.name == "far")
    assert (far.committed_cpus, far.containers) == (4, 4)
    first = (await drivers[1].pl.execution.list_containers(ME, e.ListContainers())).containers[0]
    await drivers[1].remove(first.id)
    assert await placed(drivers[2], placement=asked(zone="b"), resources=quarter) == "far"


async def test_a_bounded_host_holds_everybody_to_it(tmp_path: Path) -> None:
    topology = Topology(parts=(Part(),))
    rules = {"local": HostRules(cpus=1)}
    async with Cluster(topology, MemoryStore(), tmp_path, hosts=rules) as cluster:
        driver = cluster.driver("main")
        await driver.image()
        half = e.Resources(cpus=0.5)
        handles = [await driver.draft(resources=half, name=f"c{number}") for number in range(6)]
        done = await asyncio.gather(*(driver.commit(handle) for handle in handles), return_exceptions=True)
        assert sum(isinstance(one, e.Committed) for one in done) == 2
        assert sum(isinstance(one, ResourceExhausted) for one in done) == 4
        (one, _) = (await driver.pl.execution.list_containers(ME, e.ListContainers())).containers

        async def resize(cpus: float) -> e.Committed:
            change = e.SetResources(handle=await driver.handle(one.id), resources=e.Resources(cpus=cpus))
            return await driver.commit((await driver.pl.execution.set_resources(ME, change)).handle)

        with pytest.raises(ResourceExhausted):
            await resize(0.75)
        await resize(0.25)
        await driver.commit(await driver.draft(resources=e.Resources(cpus=0.25)))
        with pytest.raises(ResourceExhausted):
            await driver.commit(await driver.draft(resources=e.Resources(cpus=0.01)))


async def test_who_is_no_operator_learns_of_hosts_what_it_takes_to_choose(cluster: Cluster) -> None:
    await placed(cluster.driver("west"), host="east", resources=e.Resources(cpus=2))
    seen = await hosts_of(cluster.driver("far"), Caller(role="user", subject="somebody"))
    assert {host.name: host.labels for host in seen} == {name: rules.labels for name, rules in RULES.items()}
    assert {(host.cpus, host.committed_cpus, host.containers) for host in seen} == {(None, None, None)}
    (east,) = [host for host in await hosts_of(cluster.driver("far")) if host.name == "east"]
    assert (east.cpus, east.memory_bytes, east.committed_cpus, east.containers) == (4, 8 * GIB, 2, 1)


async def test_one_commit_is_for_one_host(cluster: Cluster) -> None:
    for door in cluster.doors:
        async with cluster.at(door) as pl:
            handles = [await pl.execution.create("busybox", "true", host=host) for host in ("west", "east")]
            with pytest.raises(InvalidArgument, match=r"hosts east, west, .* with the same `host`") as refused:
                await pl.execution.commit_all(handles)
            assert refused.value.facts == {"pointer": "/handles"}
            assert await pl.execution.list() == ()
    driver = cluster.driver("west")
    together = tuple([await driver.draft(host="far", name=f"number-{number}") for number in range(3)])
    done = await driver.pl.execution.commit(ME, e.Commit(handles=together))
    assert isinstance(done, e.CommittedMany)
    assert len(done.containers) == len(cluster.worlds["far"].rootfs) == 3


# addresses and names, of all hosts together


async def test_no_address_is_had_twice_however_many_ask_on_however_many_hosts(cluster: Cluster) -> None:
    await cluster.driver("east").network("small", subnets=(n.Subnet(subnet="10.9.0.0/27"),))
    drivers = [cluster.driver(name) for name in cluster.doors]

    async def one(number: int) -> str | None:
        driver = drivers[number % 3]
        try:
            host = ("west", "east", "far")[number // 3 % 3]
            done = await driver.commit(await driver.draft(network="small", host=host))
        except ResourceExhausted:
            return None
        if number % 4 == 0:
            await driver.remove(done.id)
            return None
        return done.endpoints[0].address

    found = [address for address in await asyncio.gather(*map(one, range(60))) if address]
    assert len(found) == len(set(found))
    listed = (await drivers[0].pl.execution.list_containers(ME, e.ListContainers())).containers
    assert sorted(found) == sorted(one.endpoints[0].address for one in listed)
    assert len({one.host for one in listed}) == 3


async def test_a_name_is_had_once_on_all_hosts(cluster: Cluster) -> None:
    drafts = [
        (door, await cluster.driver(door).draft(name="cookie", host=host)) for door in cluster.doors for host in RULES
    ]
    done = await asyncio.gather(
        *(cluster.driver(door).commit(handle) for door, handle in drafts), return_exceptions=True
    )
    assert sum(isinstance(one, e.Committed) for one in done) == 1
    assert sum(len(world.rootfs) for world in cluster.worlds.values()) == 1


async def test_a_container_from_before_hosts_had_records_counts_once_its_host_has_started(cluster: Cluster) -> None:
    driver = cluster.driver("west")
    await driver.run("sleep", "1000", name="busy", host="far", resources=e.Resources(cpus=3))
    await driver.commit(await driver.draft(host="far", name="idle"))
    await cluster.stop("far")
    rows = await cluster.store.range("/placed/far/")
    await cluster.store.apply(Transaction(ops=[Delete(row.key) for row in rows]))
    await cluster.start(cluster.topology.part("far"))
    await until(cluster, "west", lambda hosts: all(host.state == "up" for host in hosts))
    (far,) = [host for host in await hosts_of(driver) if host.name == "far"]
    assert (far.committed_cpus, far.containers) == (3, 2)
    with pytest.raises(ResourceExhausted):
        await placed(driver, placement=asked(zone="b"), resources=e.Resources(cpus=2))
    for ref in ("busy", "idle"):
        await driver.remove(ref, force=True)
    assert await cluster.store.range("/placed/far/") == []


async def test_a_network_is_where_it_is_needed_and_goes_from_everywhere(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    made = await driver.network("lan")
    done = [await driver.commit(await driver.draft(network="lan", host=host)) for host in ("west", "far")]
    has = {name for name, world in cluster.worlds.items() if made.id in world.networks}
    assert has == {"west", "far"}
    for one in done:
        await driver.remove(one.id)
    await driver.pl.network.delete_network(ME, n.NetworkRef(ref="lan"))
    assert not any(made.id in world.networks for world in cluster.worlds.values())


async def test_no_network_takes_what_another_host_uses_itself(cluster: Cluster) -> None:
    cluster.worlds["far"].reserved_subnets.append("10.77.0.0/16")
    await cluster.stop("far")
    await cluster.start(cluster.topology.part("far"))
    await until(cluster, "east", lambda hosts: all(host.state == "up" for host in hosts))
    with pytest.raises(PortlayerError, match="not free"):
        await cluster.driver("east").network("lan", subnets=(n.Subnet(subnet="10.77.3.0/24"),))


# volumes


async def volume(driver: Driver, name: str = "jar", **fields: Any) -> s.Volume:
    return await driver.pl.storage.create_volume(ME, s.CreateVolume(name=name, **fields))


async def lives(driver: Driver, name: str = "jar") -> str:
    return (await driver.pl.storage.get_volume(ME, s.VolumeRef(ref=name))).host


async def test_a_volume_lives_where_it_is_used_first_and_containers_go_there(cluster: Cluster) -> None:
    driver = cluster.driver("west")
    made = await volume(driver)
    assert await lives(driver) == ""
    assert await placed(driver, host="far", volume="jar") == "far"
    assert await lives(driver) == "far"
    assert made.id in cluster.worlds["far"].volumes
    assert {await placed(driver, volume="jar") for _ in range(4)} == {"far"}, "who may be anywhere goes there"
    assert await placed(driver, volume="jar", placement=asked(zone="b")) == "far"
    for fields in ({"host": "east"}, {"placement": asked(zone="a")}):
        with pytest.raises(InvalidState, match="lives on host far"):
            await driver.draft(volume="jar", **fields)
    await volume(driver, "pot", host="east")
    with pytest.raises(InvalidState, match="lives on host"):
        handle = await driver.draft(volume="jar")
        await driver.pl.storage.join(ME, s.JoinVolume(handle=handle, volume="pot", destination="/pot"))
    assert {name for name, world in cluster.worlds.items() if world.volumes} == {"far"}


async def test_a_volume_may_be_made_for_a_host(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    assert (await volume(driver, host="east")).host == "east"
    assert await placed(driver, volume="jar") == "east"
    with pytest.raises(NotFound):
        await volume(driver, "pot", host="north")


async def test_two_hosts_that_want_a_volume_first(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    await volume(driver)
    handles = [await driver.draft(volume="jar", host=host) for host in ("west", "east", "far") * 2]
    done = await asyncio.gather(*(driver.commit(handle) for handle in handles), return_exceptions=True)
    won = {(await driver.inspect(one.id)).host for one in done if isinstance(one, e.Committed)}
    lost = [one for one in done if isinstance(one, Conflict)]
    assert len(won) == 1
    assert len(lost) == 4
    assert {one.facts["collisions"] for one in lost} == {("mounts/data",)}
    assert {await lives(driver)} == won == {name for name, world in cluster.worlds.items() if world.volumes}


async def test_a_volume_is_removed_where_it_lives(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    await volume(driver)
    done = await driver.commit(await driver.draft(volume="jar", host="far"))
    await driver.remove(done.id)
    assert cluster.worlds["far"].volumes
    await driver.pl.storage.delete_volume(ME, s.VolumeRef(ref="jar"))
    assert not cluster.worlds["far"].volumes


async def test_a_volume_of_a_host_that_is_away_goes_when_that_is_back(cluster: Cluster) -> None:
    driver = cluster.driver("west")
    await volume(driver)
    done = await driver.commit(await driver.draft(volume="jar", host="far"))
    await driver.remove(done.id)
    await cluster.stop("far")
    await until(cluster, "west", lambda hosts: [one.state for one in hosts if one.name == "far"] == ["away"])
    with pytest.raises(Unavailable, match="far"):
        await driver.draft(volume="jar")
    await driver.pl.storage.delete_volume(ME, s.VolumeRef(ref="jar"))
    assert cluster.worlds["far"].volumes
    await cluster.start(cluster.topology.part("far"))
    async with asyncio.timeout(20):
        while cluster.worlds["far"].volumes:
            await asyncio.sleep(0.01)
