"""A host that is away is seen, and nothing of it becomes somebody else's; it comes back, or an operator lets it go."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import etcdlab
import pytest
from apart.cluster import EXECUTION, HOSTS, INTERACTION, NETWORK, STORAGE, TOPOLOGIES, Cluster
from conformance.store_tools import FakeClock
from driver import ME, Driver

from portlayer.components.membership import LEASE_SECONDS
from portlayer.components.records import decode
from portlayer.interfaces.store import Store
from portlayer.model import execution as e
from portlayer.model import interaction as i
from portlayer.model import network as n
from portlayer.model import service as m
from portlayer.model import storage as s
from portlayer.model.errors import (
    DeadlineExceeded,
    InUse,
    InvalidState,
    NotFound,
    PortlayerError,
    ResourceExhausted,
    Unavailable,
)
from portlayer.model.events import Event
from portlayer.model.topology import Part, Topology
from portlayer.stores.clock import boot_clock
from portlayer.stores.etcd import EtcdStore
from portlayer.stores.memory import MemoryStore

TWO = Topology(
    parts=(
        Part(name="west", host="west", components=(STORAGE, EXECUTION, NETWORK, INTERACTION)),
        Part(name="east", host="east", components=(EXECUTION, NETWORK, INTERACTION)),
    )
)
SHORT = 4.0
PROMPT_SECONDS = 3.0
"""Less than it takes to see that somebody is silent."""


class Pair:
    """Two hosts, of which east dies; west is asked."""

    def __init__(self, cluster: Cluster, store: Store, clock: FakeClock | None) -> None:
        self.cluster = cluster
        self.store = store
        self.world = cluster.worlds["east"]
        self._clock = clock

    @property
    def west(self) -> Driver:
        return self.cluster.driver("west")

    @property
    def east(self) -> Driver:
        return self.cluster.driver("east")

    @property
    def left(self) -> set[str]:
        """What is on host east."""
        return {*self.world.rootfs, *self.world.volumes, *(one.id for one in self.world.live())}

    async def lose(self) -> None:
        """East's process is killed, and its lease ends."""
        await self.cluster.lose("east")
        await self.outlast()

    async def outlast(self) -> None:
        """West alone says that it lives, until east's lease has ended."""
        if self._clock is not None:
            for _ in range(2):
                self._clock.advance(LEASE_SECONDS * 0.6)
                await self.cluster.membership("west").refresh()
        await self.until_host("away")

    async def back(self) -> None:
        await self.cluster.start(TWO.part("east"))
        await self.until_host("up")

    async def host(self) -> m.HostInfo | None:
        hosts = (await self.west.pl.service.info(ME, s.Nothing())).hosts
        return next((host for host in hosts if host.name == "east"), None)

    async def until_host(self, state: str) -> None:
        async def so() -> bool:
            host = await self.host()
            return host is not None and host.state == state

        await until(so)

    async def events(self, kind: str = "host") -> list[str]:
        rows = await self.store.since("/v/default/events/", 0)
        found = [decode(Event, row.value).type.partition(".") for row in rows]
        return [what for of, _, what in found if of == kind]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.01)


ON_ETCD_TOO = pytest.mark.parametrize("pair", ["memory", "etcd"], indirect=True)


@pytest.fixture
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    clock = FakeClock() if getattr(request, "param", "memory") == "memory" else None
    prefix, etcd = uuid.uuid4().hex, None
    if clock is None:
        etcd = request.getfixturevalue("etcd")
        store: Store = await EtcdStore.open(etcd.access, prefix)
    else:
        store = MemoryStore(clock=clock)
    fields = {} if clock else {"process_seconds": SHORT}
    async with Cluster(TWO, store, tmp_path, clock=clock or boot_clock, **fields) as cluster:
        pair = Pair(cluster, store, clock)
        await pair.west.image()
        await pair.west.network()
        await pair.until_host("up")
        yield pair
    await store.close()
    if etcd is not None:
        await etcdlab.wipe(etcd.access, prefix)


async def states(driver: Driver, **asked: str) -> dict[str, str]:
    request = e.ListContainers(**asked)  # type: ignore[arg-type]
    return {one.name: one.state for one in (await driver.pl.execution.list_containers(ME, request)).containers}


@ON_ETCD_TOO
async def test_what_ran_there_is_unknown_until_it_is_back(pair: Pair) -> None:
    await pair.east.run("sleep", "1000", name="runs", host="east")
    await pair.east.run("sleep", "1000", name="paused", host="east")
    await pair.east.commit(await pair.east.set_state(await pair.east.handle("paused"), "paused"))
    await pair.east.commit(await pair.east.draft(name="idle", host="east"))
    await pair.east.run("true", name="ended", host="east")
    await pair.east.wait("ended")
    await pair.west.run("sleep", "1000", name="here", host="west")
    whole = {"runs": "running", "paused": "paused", "idle": "created", "ended": "stopped", "here": "running"}
    assert await states(pair.west) == await states(pair.east) == whole

    await pair.lose()
    lost = whole | {"runs": "unknown", "paused": "unknown"}
    assert await states(pair.west) == lost
    assert await states(pair.west, state="unknown") == {"runs": "unknown", "paused": "unknown"}
    assert set(await states(pair.west, state="running")) == {"here"}
    seen = await pair.west.inspect("runs")
    assert (seen.state, seen.tasks[0].state, seen.host) == ("unknown", "unknown", "east")
    await until(lambda: _told(pair, ["away"]))

    incarnations = {one.spec.name: one.id for one in pair.world.live()}
    assert set(incarnations) == {"runs", "paused", "idle"}, "what runs there runs on"
    pair.world.kill(incarnations["runs"])
    assert await states(pair.west) == lost
    await pair.back()
    await until(lambda: _told(pair, ["away", "returned"]))
    assert await states(pair.west) == whole | {"runs": "stopped"}
    assert (await pair.west.inspect("runs")).exit_code == 137


async def _told(pair: Pair, events: list[str]) -> bool:
    return await pair.events() == events


async def test_its_containers_cannot_be_changed_and_the_host_is_named(pair: Pair) -> None:
    await pair.east.run("sleep", "1000", name="runs", host="east")
    draft = await pair.west.draft(name="new", host="east")
    await pair.lose()
    handle = await pair.west.set_labels(await pair.west.handle("runs"), a="b")
    driver, pl = pair.west, pair.west.pl
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: driver.commit(handle),
        lambda: driver.commit(draft),
        lambda: driver.remove("runs", force=True),
        lambda: pl.execution.signal(ME, e.Signal(ref="runs", signal="TERM")),
        lambda: pl.interaction.logs(ME, i.Logs(ref="runs")),
        lambda: driver.draft(host="east"),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match=r"[Hh]ost east") as away:
            await call()
        assert away.value.facts["retry_after_seconds"]
    assert (await driver.inspect(await _placed(driver))).host == "west", "new ones go elsewhere"
    await pair.back()
    assert (await pair.west.commit(handle)).state == "running"
    assert (await pair.west.commit(draft)).state == "created"


async def _placed(driver: Driver) -> str:
    return (await driver.commit(await driver.draft())).id


async def test_waiting_does_not_take_the_unknown_for_what_it_was(pair: Pair) -> None:
    await pair.east.run("sleep", "1000", name="runs", host="east")
    await pair.lose()
    with pytest.raises(DeadlineExceeded):
        await pair.west.pl.execution.wait(ME, e.Wait(ref="runs", condition="running", timeout_seconds=0.1))
    running = asyncio.ensure_future(pair.west.wait("runs", "running"))
    exited = asyncio.ensure_future(pair.west.wait("runs"))
    await asyncio.sleep(0)
    await pair.back()
    assert (await running).state == "running"
    pair.world.kill(pair.world.live()[0].id)
    assert (await exited).exit_code == 137


@ON_ETCD_TOO
async def test_its_addresses_and_names_are_nobody_elses(pair: Pair) -> None:
    await pair.west.network("small", subnets=(n.Subnet(subnet="10.9.0.0/29"),))
    had = (await pair.east.run("sleep", "1000", name="cookie", network="small", host="east")).endpoints[0].address
    await pair.lose()
    found = []
    with pytest.raises(ResourceExhausted):
        while True:
            done = await pair.west.commit(await pair.west.draft(network="small"))
            found.append(done.endpoints[0].address)
    assert had not in found
    assert len(set(found)) == len(found) == 4
    with pytest.raises(PortlayerError, match="cookie"):
        await pair.west.commit(await pair.west.draft(name="cookie"))
    with pytest.raises(InUse):
        await pair.west.pl.network.delete_network(ME, n.NetworkRef(ref="small"))
    await pair.back()
    assert (await pair.west.inspect("cookie")).endpoints[0].address == had


async def test_what_needs_the_store_alone_another_process_answers(tmp_path: Path) -> None:
    """Also while nobody knows yet that the nearest one is dead."""
    async with Cluster(TOPOLOGIES[HOSTS], MemoryStore(), tmp_path) as cluster:
        driver = cluster.driver("door")
        await driver.image()
        await driver.run("sleep", "1000", name="runs", host="east")
        handle = await driver.handle("runs")
        await cluster.lose("west")
        assert (await driver.inspect("runs")).state == "running"
        assert (await driver.commit(await driver.set_labels(handle, a="b"))).state == "running"


async def test_a_network_is_deleted_while_a_host_that_has_it_is_away(pair: Pair) -> None:
    made = await pair.west.network("lan")
    done = await pair.west.commit(await pair.west.draft(network="lan", host="east"))
    await pair.west.remove(done.id)
    assert made.id in pair.world.networks
    await pair.lose()
    await pair.west.pl.network.delete_network(ME, n.NetworkRef(ref="lan"))
    assert made.id in pair.world.networks
    await pair.back()

    async def gone() -> bool:
        return made.id not in pair.world.networks

    await until(gone)


async def test_a_process_that_was_paused_comes_back_by_itself(pair: Pair) -> None:
    await pair.east.run("sleep", "1000", name="runs", host="east")
    pair.cluster.mute("east")
    await pair.outlast()
    assert (await pair.west.inspect("runs")).state == "unknown"
    await pair.cluster.unmute("east")
    await pair.until_host("up")
    assert (await pair.west.inspect("runs")).state == "running"
    await until(lambda: _told(pair, ["away", "returned"]))


async def test_nobody_waits_for_it_longer_than_its_lease_lasts(pair: Pair) -> None:
    """Its commit hangs, while it answers that it is well; nor is it asked for anything more then."""
    await pair.east.run("sleep", "1000", name="runs", host="east")
    handle = await pair.west.draft(name="new", host="east")
    reached, go = asyncio.Event(), asyncio.Event()

    async def hang(_: str) -> None:
        reached.set()
        await go.wait()

    pair.cluster.failpoints["east"].arm("commit.intent", hang)
    waiting = asyncio.ensure_future(pair.west.commit(handle))
    async with asyncio.timeout(20):
        await reached.wait()
    pair.cluster.mute("east")
    await pair.outlast()
    async with asyncio.timeout(PROMPT_SECONDS):
        with pytest.raises(Unavailable, match="does not answer"):
            await waiting
        for call in (pair.west.commit(handle), pair.west.pl.interaction.logs(ME, i.Logs(ref="runs"))):
            with pytest.raises(Unavailable, match="on host east") as away:
                await call
            assert away.value.facts["retry_after_seconds"]
    go.set()
    await pair.cluster.unmute("east")
    await pair.until_host("up")
    assert (await pair.west.commit(handle)).state == "created"


@ON_ETCD_TOO
async def test_an_operator_lets_a_lost_host_go(pair: Pair) -> None:
    await pair.west.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
    had = await pair.east.run("sleep", "1000", name="cookie", network="gibson_network", volume="jar", host="east")
    remove = pair.west.pl.service.delete_host
    with pytest.raises(InvalidState, match="not away"):
        await remove(ME, m.DeleteHost(ref="east", force=True))
    with pytest.raises(NotFound):
        await remove(ME, m.DeleteHost(ref="north", force=True))
    handle = await pair.east.draft(name="half", host="east", network="gibson_network")
    await pair.lose()
    with pytest.raises(InUse) as used:
        await remove(ME, m.DeleteHost(ref="east"))
    assert had.id in used.value.facts["users"]
    assert (await pair.west.inspect("cookie")).state == "unknown"

    await remove(ME, m.DeleteHost(ref="east", force=True))
    assert await pair.host() is None
    assert await states(pair.west) == {}
    for prefix in ("/placed/", "/hosts/east", "/v/default/uses/", "/v/default/hosts/", "/v/default/intents/"):
        rows = [row.key for row in await pair.store.range(prefix)]
        assert rows == [], rows
    with pytest.raises(NotFound):
        await pair.west.commit(handle)
    again = await pair.west.run("sleep", "1000", name="cookie", network="gibson_network")
    assert again.endpoints[0].address
    assert "removed" in await pair.events("container")

    assert pair.world.live(), "nobody has stopped it"
    await pair.back()

    async def empty() -> bool:
        return not pair.left

    await until(empty)
    assert (await pair.west.inspect("cookie")).state == "running"


async def test_a_volume_that_somebody_deletes_while_its_host_is_let_go(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jar", "tin"):
        await pair.west.pl.storage.create_volume(ME, s.CreateVolume(name=name, host="east"))
    await pair.lose()
    lost = pair.west.pl.service._lost  # type: ignore[attr-defined]
    volumes = lost._volumes

    async def look_and_delete(*what: str) -> Any:
        found = await volumes(*what)
        monkeypatch.undo()
        await pair.west.pl.storage.delete_volume(ME, s.VolumeRef(ref="jar"))
        return found

    monkeypatch.setattr(lost, "_volumes", look_and_delete)
    await pair.west.pl.service.delete_host(ME, m.DeleteHost(ref="east", force=True))
    assert await pair.host() is None
    assert not (await pair.west.pl.storage.list_volumes(ME, s.ListVolumes())).volumes


@pytest.mark.parametrize("point", ["commit.intent", "commit.done.Prepare", "commit.record"])
async def test_a_commit_that_was_under_way_on_a_lost_host(pair: Pair, point: str) -> None:
    await pair.west.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
    handles = [
        await pair.west.draft(name=name, host="east", network="gibson_network", volume="jar") for name in ("a", "b")
    ]
    handles = [await pair.west.set_state(handle, "running") for handle in handles]
    reached, go = asyncio.Event(), asyncio.Event()

    async def hang(_: str) -> None:
        reached.set()
        await go.wait()

    pair.cluster.failpoints["east"].arm(point, hang)
    hanging = asyncio.ensure_future(pair.east.pl.execution.commit(ME, e.Commit(handles=tuple(handles))))
    await reached.wait()
    pair.cluster.mute("east")
    await pair.outlast()
    await pair.west.pl.service.delete_host(ME, m.DeleteHost(ref="east", force=True))
    assert await states(pair.west) == {}
    for prefix in ("/placed/", "/v/default/intents/", "/v/default/uses/", "/v/default/names/containers/"):
        rows = [row.key for row in await pair.store.range(prefix)]
        assert rows == [], rows
    addresses = await pair.store.range("/v/default/addresses/")
    assert len(addresses) == len(await pair.store.range("/v/default/leases/")), "leased again, to run out"
    go.set()
    with pytest.raises(Unavailable, match="cut off"):
        await hanging
    await pair.cluster.unmute("east")
    await pair.until_host("up")
    assert pair.left == set(), "it begins anew"
