"""Quotas hold under any concurrency, follow what is given back, and change live."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import images
import pytest
from driver import Driver
from harness import Harness
from vchs.conftest import Whole, change, look, make, uploaded

from portlayer.components import values
from portlayer.compose import Settings
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import service as v
from portlayer.model.errors import InvalidArgument, NotFound, ResourceExhausted, SubstrateFailed
from portlayer.model.storage import CreateVolume, DeleteImage, ImportImage, VolumeRef
from portlayer.substrates.memory.world import Step

RACERS = 50
MIB = 1 << 20
SOME = e.Resources(cpus=0.1, memory_bytes=64 * MIB)


async def take_container(tenant: Driver, number: int) -> Callable[[], Awaitable[Any]]:
    handle = await tenant.draft(name=f"c{number}", resources=SOME)
    return lambda: tenant.commit(handle)


async def take_network(tenant: Driver, number: int) -> Callable[[], Awaitable[Any]]:
    return lambda: tenant.network(f"n{number}")


async def take_address(tenant: Driver, number: int) -> Callable[[], Awaitable[Any]]:
    handle = await tenant.draft(name=f"c{number}")
    handle = (await tenant.pl.network.join(tenant.me, n.JoinNetwork(handle=handle, network="gibson_network"))).handle
    return lambda: tenant.pl.network.bind(tenant.me, n.BindNetwork(handle=handle))


async def take_storage(tenant: Driver, number: int) -> Callable[[], Awaitable[Any]]:
    tar = images.tar([images.file(f"own{number}", b"x" * 100_000)])
    return lambda: uploaded(lambda: tenant.image(f"own{number}", tar))


async def take_volume(tenant: Driver, number: int) -> Callable[[], Awaitable[Any]]:
    return lambda: tenant.pl.storage.create_volume(tenant.me, CreateVolume(name=f"v{number}", capacity_bytes=16 * MIB))


CASES = {
    "containers": ("containers", take_container, 1, RACERS),
    "cpus": ("cpus", take_container, 0.1, RACERS),
    "memory": ("memory_bytes", take_container, 64 * MIB, RACERS),
    "networks": ("networks", take_network, 1, RACERS),
    "addresses": ("addresses", take_address, 1, RACERS),
    "images": ("storage_bytes", take_storage, 150_000, 6),
    "volumes": ("storage_bytes", take_volume, 16 * MIB, RACERS),
}
"""What is taken: the resource, how one takes a place, what room a place needs, and how many race for it."""


@pytest.mark.parametrize("case", CASES)
async def test_of_many_that_race_for_the_last_place_one_wins(whole: Whole, case: str) -> None:
    resource, take, room, racers = CASES[case]
    racers = min(racers, 10) if whole.moves else racers
    tenant = await make(whole, "tenant")
    for number in range(2):
        await (await take(tenant, 1000 + number))()
    limit = round(getattr((await look(whole, "tenant")).usage, resource) + room, 6)
    await change(whole, "tenant", **{resource: limit})
    before = getattr((await look(whole, "tenant")).usage, resource)
    works = [await take(tenant, number) for number in range(racers)]
    results = await asyncio.gather(*(work() for work in works), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == racers - 1, refused
    vch = await look(whole, "tenant")
    used = getattr(vch.usage, resource)
    assert before < used <= limit
    names = {"memory_bytes": "memoryBytes", "storage_bytes": "storageBytes"}
    for error in refused:
        assert isinstance(error, ResourceExhausted)
        assert error.facts["resource"] == names.get(resource, resource)
        assert error.facts["limit"] == limit
        assert error.facts["used"] <= used
        assert error.facts["used"] + error.facts["requested"] > limit
        assert "quota" in error.detail
    assert len((await tenant.pl.execution.list_containers(tenant.me, e.ListContainers())).containers) <= 3


async def test_two_processes_share_a_quota(harness: Harness, second: Harness) -> None:
    tenant = await make(harness, "tenant", containers=5, addresses=7)
    other = second.of("tenant")
    handles = [await tenant.draft(name=f"c{number}") for number in range(20)]
    commits = [(tenant if number % 2 else other).commit(handle) for number, handle in enumerate(handles)]
    results = await asyncio.gather(*commits, return_exceptions=True)
    assert sum(isinstance(result, ResourceExhausted) for result in results) == 15, results
    binds = [await take_address((tenant, other)[number % 2], 100 + number) for number in range(20)]
    results = await asyncio.gather(*(bind() for bind in binds), return_exceptions=True)
    assert sum(isinstance(result, ResourceExhausted) for result in results) == 13, results
    await change(second, "tenant", containers=6)
    await tenant.commit(await tenant.draft(name="sixth"))
    with pytest.raises(ResourceExhausted):
        await other.commit(await other.draft(name="seventh"))


async def test_what_is_removed_or_fails_is_given_back(whole: Whole) -> None:
    tenant = await make(whole, "tenant", containers=1, cpus=1, memory_bytes=100 * MIB, addresses=1)
    most = e.Resources(cpus=1, memory_bytes=100 * MIB)
    whole.world.fail("execution.prepare", SubstrateFailed("no"))
    handle = await tenant.draft(name="one", resources=most, network="gibson_network", host=whole.host)
    with pytest.raises(SubstrateFailed):
        await tenant.commit(handle)
    assert (await look(whole, "tenant")).usage.containers == 0
    await tenant.commit(await tenant.set_state(handle, "running"))
    with pytest.raises(ResourceExhausted) as caught:
        await tenant.draft(name="two", network="gibson_network")
    assert caught.value.facts == {"resource": "addresses", "limit": 1, "used": 1, "requested": 1}
    await tenant.remove("one", force=True)
    usage = (await look(whole, "tenant")).usage
    assert (usage.containers, usage.cpus, usage.memory_bytes, usage.addresses) == (0, 0, 0, 0)
    await tenant.run(name="two", resources=most, network="gibson_network")


async def test_a_discarded_bind_gives_its_address_back(whole: Whole) -> None:
    tenant = await make(whole, "tenant", addresses=1)
    handle = await tenant.draft(network="gibson_network")
    with pytest.raises(ResourceExhausted):
        await tenant.draft(network="gibson_network")
    again = (await tenant.pl.network.bind(tenant.me, n.BindNetwork(handle=handle))).handle
    await tenant.pl.execution.discard(tenant.me, e.Discard(handle=again))
    await tenant.draft(network="gibson_network")


class TestLeases:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(lease_seconds=1)

    async def test_an_expired_lease_gives_its_address_back(self, harness: Harness) -> None:
        tenant = await make(harness, "tenant", addresses=1)
        await tenant.draft(network="gibson_network")
        async with asyncio.timeout(20):
            while (await look(harness, "tenant")).usage.addresses:
                await asyncio.sleep(0.02)
        await tenant.draft(network="gibson_network")


async def test_limits_may_go_below_what_is_used_and_then_nothing_is_new(whole: Whole) -> None:
    tenant = await make(whole, "tenant")
    for number in range(3):
        await tenant.run(name=f"c{number}", resources=SOME)
    vch = await change(whole, "tenant", containers=1, memory_bytes=0)
    assert (vch.quota.containers, vch.usage.containers) == (1, 3)
    await tenant.commit(await tenant.set_labels(await tenant.handle("c1"), colour="red"))
    await tenant.commit(await tenant.set_state(await tenant.handle("c1"), "stopped", timeout_seconds=0))
    less = e.SetResources(handle=await tenant.handle("c1"), resources=e.Resources(cpus=1, memory_bytes=32 * MIB))
    await tenant.commit((await tenant.pl.execution.set_resources(tenant.me, less)).handle)
    with pytest.raises(ResourceExhausted, match="quota of 1 containers: 3 in use, 1 more"):
        await tenant.commit(await tenant.draft(resources=SOME))
    await change(whole, "tenant", containers=None, memory_bytes=None)
    await tenant.commit(await tenant.draft())


async def test_more_resources_for_a_container_are_counted(whole: Whole) -> None:
    tenant = await make(whole, "tenant", memory_bytes=100 * MIB)
    await tenant.run(name="one", resources=SOME)

    async def grow(mebibytes: int | None) -> e.Committed:
        wanted = e.Resources(memory_bytes=mebibytes and mebibytes * MIB)
        change = e.SetResources(handle=await tenant.handle("one"), resources=wanted)
        return await tenant.commit((await tenant.pl.execution.set_resources(tenant.me, change)).handle)

    await grow(100)
    with pytest.raises(ResourceExhausted):
        await grow(101)
    with pytest.raises(InvalidArgument, match=r"give it resources\.memoryBytes"):
        await grow(None)
    await grow(10)
    assert (await look(whole, "tenant")).usage.memory_bytes == 10 * MIB


async def test_where_the_sum_has_a_limit_every_container_needs_one(whole: Whole) -> None:
    tenant = await make(whole, "tenant", cpus=1)
    with pytest.raises(InvalidArgument, match=r"give it resources\.cpus"):
        await tenant.commit(await tenant.draft())


async def test_a_limit_set_amid_commits_holds_from_then_on(whole: Whole) -> None:
    tenant = await make(whole, "tenant")
    handles = [await tenant.draft(name=f"c{number}") for number in range(30)]
    commits = [asyncio.ensure_future(tenant.commit(handle)) for handle in handles]
    await commits[3]
    await change(whole, "tenant", containers=10)
    results = await asyncio.gather(*commits, return_exceptions=True)
    landed = sum(isinstance(result, e.Committed) for result in results)
    assert landed >= 10
    assert landed == (await look(whole, "tenant")).usage.containers
    assert all(isinstance(result, e.Committed | ResourceExhausted) for result in results)
    with pytest.raises(ResourceExhausted):
        await tenant.commit(await tenant.draft())


async def test_several_at_once_are_counted_together(whole: Whole) -> None:
    tenant = await make(whole, "tenant", containers=2)
    handles = tuple([await tenant.draft(name=f"c{number}", host=whole.host) for number in range(3)])
    with pytest.raises(ResourceExhausted, match="0 in use, 3 more"):
        await tenant.pl.execution.commit(tenant.me, e.Commit(handles=handles))
    await tenant.pl.execution.commit(tenant.me, e.Commit(handles=handles[:2]))


async def test_layers_count_once_unpacked_and_an_import_ends_where_there_is_no_room(whole: Whole) -> None:
    tenant = await make(whole, "tenant")
    base = (await look(whole, "tenant")).usage.storage_bytes
    tar = images.tar([images.file("zeros", bytes(10 * MIB))])
    packed = images.oci_archive(images.Built([tar], "zeros", compression="gzip"))
    assert len(packed) < MIB
    await change(whole, "tenant", storage_bytes=base + 10 * MIB)
    with pytest.raises(ResourceExhausted) as caught:
        await tenant.archive(packed)
    assert caught.value.facts["resource"] == "storageBytes"
    assert (await look(whole, "tenant")).usage.storage_bytes == base
    assert len(whole.world.layers) == 1
    await change(whole, "tenant", storage_bytes=base + len(tar))
    await tenant.archive(packed)
    await tenant.archive(images.docker_archive(images.Built([tar], "again", {"Cmd": ["other"]}, compression="gzip")))
    assert (await look(whole, "tenant")).usage.storage_bytes == base + len(tar)
    await tenant.pl.storage.delete_image(tenant.me, DeleteImage(ref="again"))
    assert (await look(whole, "tenant")).usage.storage_bytes == base + len(tar)
    await tenant.pl.storage.delete_image(tenant.me, DeleteImage(ref="zeros"))
    assert (await look(whole, "tenant")).usage.storage_bytes == base


@pytest.mark.parametrize("format", ["auto", "rootfs"])
async def test_an_upload_ends_where_no_quota_of_that_size_holds_it(harness: Harness, format: Any) -> None:  # noqa: A002
    """However small it comes: it lies on the disk that all share, long before a layer of it is unpacked."""
    tenant = await make(harness, "tenant", storage_bytes=20 * MIB)
    used = (await look(harness, "tenant")).usage.storage_bytes
    packed = gzip.compress(images.tar([images.file("zeros", bytes(100 * MIB))]), 1)
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for start in range(0, len(packed), 4096):
            sent += 4096
            yield packed[start : start + 4096]

    with pytest.raises(ResourceExhausted) as caught:
        await tenant.pl.storage.import_image(tenant.me, ImportImage(name="bomb", format=format), body())
    assert caught.value.facts["resource"] == "storageBytes"
    assert 36 * MIB < caught.value.facts["requested"] < 40 * MIB
    assert sent < len(packed) / 2
    assert (await look(harness, "tenant")).usage.storage_bytes == used


async def test_blobs_count_where_they_are_more_than_what_they_unpack_to(whole: Whole) -> None:
    tenant = await make(whole, "tenant")
    base = (await look(whole, "tenant")).usage.storage_bytes
    tar = images.tar([images.file("little")])

    async def use(name: str, blob: bytes) -> int:
        members = images.docker_members(images.Built([tar], name, {"Cmd": [name]}))
        await tenant.archive(images.archive({at: blob if at.endswith(".tar") else it for at, it in members.items()}))
        return (await look(whole, "tenant")).usage.storage_bytes - base

    packed = gzip.compress(tar, mtime=1)
    assert await use("plain", packed) == len(tar)
    assert await use("padded", packed + bytes(3 * MIB)) == 3 * MIB + 2 * len(packed)
    await change(whole, "tenant", storage_bytes=base + 8 * MIB)
    with pytest.raises(ResourceExhausted):
        await use("padded-more", packed + bytes(6 * MIB))
    assert await use("padded-again", packed + bytes(4 * MIB)) == 7 * MIB + 3 * len(packed)
    for name in ("padded", "padded-again"):
        await tenant.pl.storage.delete_image(tenant.me, DeleteImage(ref=name))
    assert (await look(whole, "tenant")).usage.storage_bytes == base + len(tar)


async def measured(harness: Harness, vch: str) -> int:
    """What *vch* uses of the disk beyond its layers and capacities, as it was measured just now."""
    await harness.pl.execution._meter.measure()  # type: ignore[attr-defined]
    return sum(int(row.value) for row in await harness.store.range(f"/v/{vch}/written/"))


async def test_what_containers_write_counts_as_it_was_measured(harness: Harness) -> None:
    tenant, free = await make(harness, "tenant"), await make(harness, "free")
    base = (await look(harness, "tenant")).usage.storage_bytes
    await change(harness, "tenant", storage_bytes=base + 3 * MIB)
    for name, capacity in (("jar", None), ("disk", 16 * MIB)):
        await free.pl.storage.create_volume(free.me, CreateVolume(name=name, capacity_bytes=capacity))
    await tenant.pl.storage.create_volume(tenant.me, CreateVolume(name="jar"))
    for each in (tenant, free):
        await each.run("sh", "-c", "seq 400000 > /data/f", name="little", volume="jar")
        await each.run("sh", "-c", "seq 300000 > /f", name="more")
        await each.run("true", name="nothing")
        for name in ("little", "more", "nothing"):
            await each.wait(name)
    written = await measured(harness, "tenant")
    assert 4_500_000 < written < 5_000_000
    assert len(await harness.store.range("/v/tenant/written/")) == 2
    assert await measured(harness, "free") == 0, "it has no limit"
    assert (await look(harness, "tenant")).usage.storage_bytes == base + written
    with pytest.raises(ResourceExhausted) as caught:
        await tenant.commit(await tenant.draft())
    assert caught.value.facts == {
        "resource": "storageBytes",
        "limit": base + 3 * MIB,
        "used": base + written,
        "requested": 0,
    }
    with pytest.raises(ResourceExhausted):
        await tenant.image("more", images.tar([images.file("f")]))
    await tenant.commit(await tenant.set_state(await tenant.handle("more"), "running"))  # what is there stays of use
    await tenant.remove("more", force=True)
    await tenant.commit(await tenant.draft(name="again"))
    await tenant.remove("little")
    await tenant.pl.storage.delete_volume(tenant.me, VolumeRef(ref="jar"))
    assert (await look(harness, "tenant")).usage.storage_bytes == base
    assert await measured(harness, "tenant") == 0


class TestMeasuring:
    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(measure_seconds=0.01)

    async def test_it_is_measured_again_and_again(self, harness: Harness) -> None:
        tenant = await make(harness, "tenant", storage_bytes=1 << 40)
        base = (await look(harness, "tenant")).usage.storage_bytes
        await tenant.run("sh", "-c", "seq 300000 > /f; sleep 1000", name="cookie")
        await self.until_more(harness, base)

    async def until_more(self, harness: Harness, base: int) -> None:
        async with asyncio.timeout(20):
            while (await look(harness, "tenant")).usage.storage_bytes == base:
                await asyncio.sleep(0.01)

    async def test_a_vch_that_takes_long_holds_up_itself_alone(self, harness: Harness) -> None:
        """As one does that has millions of files; or one that fails, again and again."""
        met: list[str] = []

        def hook(step: Step) -> Awaitable[None] | None:
            if step.name != "storage.written":
                return None
            met.append(step.name)
            if len(met) == 1:
                raise SubstrateFailed("no disk")
            return asyncio.Event().wait() if len(met) == 2 else None  # type: ignore[return-value]

        harness.world.before(hook)
        await make(harness, "slow", storage_bytes=1 << 40)
        async with asyncio.timeout(20):
            while len(met) < 2:
                await asyncio.sleep(0.01)
        tenant = await make(harness, "tenant", storage_bytes=1 << 40)
        base = (await look(harness, "tenant")).usage.storage_bytes
        await tenant.run("sh", "-c", "seq 300000 > /f; sleep 1000", name="cookie")
        await self.until_more(harness, base)


async def test_an_import_that_found_no_room_leaves_no_file_open(harness: Harness, tmp_path: Path) -> None:
    """Not even as long as somebody keeps the error."""
    tenant = await make(harness, "tenant")
    await change(harness, "tenant", storage_bytes=(await look(harness, "tenant")).usage.storage_bytes + MIB)
    with pytest.raises(ResourceExhausted) as caught:
        await tenant.image("large", images.tar([images.file("zeros", bytes(3 * MIB))]))
    assert not [path for path in open_files() if path.is_relative_to(tmp_path / "uploads")], caught


def open_files() -> list[Path]:
    return [file.resolve() for file in Path("/proc/self/fd").iterdir()]


async def test_a_quota_is_of_one_vch(whole: Whole) -> None:
    tenant = await make(whole, "tenant", containers=0, networks=1, addresses=0)
    with pytest.raises(ResourceExhausted):
        await tenant.commit(await tenant.draft())
    await whole.network()
    await whole.run(name="free", network="gibson_network")


@pytest.mark.parametrize("quota", [{"containers": -1}, {"cpus": -0.5}, {"storage_bytes": 1 << 61}])
async def test_limits_have_limits(whole: Whole, quota: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument):
        await make(whole, "tenant", **quota)
    with pytest.raises(NotFound):
        await look(whole, "tenant")
    with pytest.raises(InvalidArgument):
        await change(whole, "default", **quota)


async def test_a_vch_has_so_many_values_and_no_more(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the store that all share."""
    monkeypatch.setattr(values, "MAX_KEYS", 3)
    tenant, other = await make(whole, "tenant"), await make(whole, "other")
    for number in range(3):
        await tenant.pl.service.put_kv(tenant.me, v.PutKv(key=f"k{number}", value=b"v"))
    with pytest.raises(ResourceExhausted) as caught:
        await tenant.pl.service.put_kv(tenant.me, v.PutKv(key="more", value=b"v"))
    assert caught.value.facts["resource"] == "kv"
    await tenant.pl.service.put_kv(tenant.me, v.PutKv(key="k0", value=b"another"))
    await other.pl.service.put_kv(other.me, v.PutKv(key="more", value=b"v"))
    await tenant.pl.service.delete_kv(tenant.me, v.DeleteKv(key="k0"))
    await tenant.pl.service.put_kv(tenant.me, v.PutKv(key="more", value=b"v"))


async def test_of_many_that_race_for_the_last_values_so_many_win(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "MAX_KEYS", 3)
    another = await harness.another()
    doors = [(await make(harness, "tenant")).pl, another.pl]
    me = harness.of("tenant").me
    puts = [doors[number % 2].service.put_kv(me, v.PutKv(key=f"k{number}", value=b"v")) for number in range(RACERS)]
    done = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(isinstance(one, v.KvEntry) for one in done) == 3
    assert sum(isinstance(one, ResourceExhausted) for one in done) == RACERS - 3
    await another.stop()
