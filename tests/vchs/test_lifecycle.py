"""A VCH is made, shown, changed and deleted; with force, with all that it has, whatever dies on the way."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any

import images
import pytest
from driver import ME, Driver
from harness import Harness
from vchs.conftest import Whole, change, delete, look, make, uploaded

from portlayer.components import keys
from portlayer.model import execution as e
from portlayer.model import grants as g
from portlayer.model import network as n
from portlayer.model import service as v
from portlayer.model import storage as s
from portlayer.model.caller import Caller
from portlayer.model.errors import (
    AlreadyExists,
    Conflict,
    HandleInvalid,
    InUse,
    InvalidArgument,
    NotFound,
    PortlayerError,
    SubstrateFailed,
)

TAKING = "Departures._take_away"


async def events(harness: Driver, vch: str) -> Any:
    return await harness.pl.service.events(Caller(vch=vch), v.Subscribe(since="0"))


async def collect(events: Any) -> list[str]:
    async with asyncio.timeout(20):
        return [numbered.event.type async for numbered in events]


async def test_a_vch_shows_its_quota_and_what_it_uses(whole: Whole) -> None:
    tenant = await make(whole, "tenant", containers=3, memory_bytes=1 << 30)
    await tenant.run(name="cookie", network="gibson_network", resources=e.Resources(memory_bytes=64 << 20, cpus=0.5))
    await whole.pl.storage.create_volume(tenant.me, s.CreateVolume(name="jar"))
    vch = await look(whole, "tenant")
    assert vch.quota == v.Quota(containers=3, memory_bytes=1 << 30)
    usage = vch.usage
    assert (usage.containers, usage.cpus, usage.memory_bytes) == (1, 0.5, 64 << 20)
    assert (usage.networks, usage.addresses, usage.volumes, usage.images) == (1, 1, 1, 1)
    assert usage.storage_bytes > 0
    assert (await look(whole, "default")).usage.containers == 0
    listed = (await whole.pl.service.list_vchs(ME, v.ListVchs())).vchs
    assert [one.name for one in listed] == ["default", "tenant"]
    assert listed[1] == vch


async def test_a_name_is_taken_once_and_a_key_gives_one_answer(whole: Whole) -> None:
    caller = Caller(idempotency_key="once")
    first = await whole.pl.service.create_vch(caller, v.CreateVch(name="tenant"))
    assert await whole.pl.service.create_vch(caller, v.CreateVch(name="tenant")) == first
    for name in ("tenant", "default"):
        with pytest.raises(AlreadyExists):
            await whole.pl.service.create_vch(ME, v.CreateVch(name=name))
    for name in ("", "a/b", "..", "ä", "x" * 129, "0" * 32):
        with pytest.raises(InvalidArgument):
            await whole.pl.service.create_vch(ME, v.CreateVch(name=name))


async def test_changes_are_merged_and_heed_the_etag(whole: Whole) -> None:
    await make(whole, "tenant", containers=3, networks=2)
    vch = await change(whole, "tenant", containers=None, cpus=2)
    assert vch.quota == v.Quota(networks=2, cpus=2)
    stale = v.UpdateVch(ref="tenant", quota=v.QuotaChange(cpus=3), if_match="1")
    with pytest.raises(Conflict):
        await whole.pl.service.update_vch(ME, stale)
    fresh = v.UpdateVch(ref="tenant", quota=v.QuotaChange(cpus=3), if_match=str(vch.version))
    assert (await whole.pl.service.update_vch(ME, fresh)).quota.cpus == 3
    with pytest.raises(NotFound):
        await change(whole, "absent", cpus=1)


async def test_default_stays(whole: Whole) -> None:
    with pytest.raises(InvalidArgument):
        await delete(whole, "default", force=True)


@pytest.mark.parametrize("what", ["containers", "networks", "volumes", "images", "kv"])
async def test_what_holds_anything_is_not_deleted(whole: Whole, what: str) -> None:
    await whole.pl.service.create_vch(ME, v.CreateVch(name="tenant"))
    tenant = whole.of("tenant")
    match what:
        case "containers":
            await tenant.image()
            await tenant.commit(await tenant.draft())
        case "networks":
            await tenant.network()
        case "volumes":
            await whole.pl.storage.create_volume(tenant.me, s.CreateVolume(name="jar"))
        case "images":
            await tenant.image()
        case "kv":
            await whole.pl.service.put_kv(tenant.me, v.PutKv(key="k", value=b"v"))
    with pytest.raises(InUse) as caught:
        await delete(whole, "tenant")
    assert f"1 {what}" in caught.value.facts["users"]
    assert (await look(whole, "tenant")).state == "active"
    await delete(whole, "tenant", force=True)
    with pytest.raises(NotFound):
        await look(whole, "tenant")


async def test_an_empty_one_is_deleted_without_force(whole: Whole) -> None:
    tenant = await make(whole, "tenant")
    await tenant.run(name="cookie", network="gibson_network")
    await tenant.remove("cookie", force=True)
    await whole.pl.network.delete_network(tenant.me, n.NetworkRef(ref="gibson_network"))
    await whole.pl.storage.delete_image(tenant.me, s.DeleteImage(ref="busybox"))
    await delete(whole, "tenant")
    with pytest.raises(NotFound):
        await tenant.draft()
    with pytest.raises(NotFound):
        await delete(whole, "tenant")


async def of_right(whole: Whole) -> set[str]:
    """The keys of all that it has; it hears of hosts that are away where execution moves."""
    return {row.key for row in await whole.store.range("/v/right/") if not whole.moves or "/events/" not in row.key}


async def test_force_takes_everything_of_it_and_nothing_else(whole: Whole, left: Driver, right: Driver) -> None:
    own = images.tar([images.file("own", b"own")])
    for tenant in (left, right):
        await tenant.image("own", own if tenant is left else b"")
        await whole.pl.storage.create_volume(tenant.me, s.CreateVolume(name="jar"))
        for number in range(3):
            await tenant.run(name=f"c{number}", network="gibson_network", volume="jar")
        await tenant.draft(name="leased", network="gibson_network")
        await whole.pl.service.put_kv(tenant.me, v.PutKv(key="k", value=b"v"))
    kept = await of_right(whole)
    follower = asyncio.ensure_future(collect(await events(whole, "left")))
    await delete(whole, "left", force=True)
    told = await follower
    assert told[0] == "vch.created"
    assert told.count("container.removed") == 3
    assert told[-1] == "vch.removed"
    assert {row.key.split("/")[3] for row in await whole.store.range("/v/left/")} == {"events"}
    assert await of_right(whole) == kept
    assert {one.spec.vch for one in whole.everywhere("incarnations").values()} == {"right"}
    assert len(whole.everywhere("networks")) == 1
    assert len(whole.world.layers) == 1
    assert len((await right.pl.execution.list_containers(right.me, e.ListContainers(state="running"))).containers) == 3


async def test_a_later_one_of_the_same_name_is_another(whole: Whole, left: Driver) -> None:
    handle = await left.draft(name="cookie")
    committed = await left.commit(await left.draft(name="other"))
    held = await left.handle("other")
    network = (await left.pl.network.handle(left.me, n.NetworkRef(ref="gibson_network"))).handle
    old = await look(whole, "left")
    await delete(whole, "left", force=True)
    again = await make(whole, "left")
    assert (await look(whole, "left")).id != old.id
    for stale in (handle, held):
        with pytest.raises(HandleInvalid):
            await again.commit(stale)
    join = n.JoinNetwork(handle=await again.draft(), network=network)
    with pytest.raises(HandleInvalid):
        await again.pl.network.join(again.me, join)
    with pytest.raises(NotFound):
        await again.inspect(committed.id)
    told = await events(whole, "left")
    async with asyncio.timeout(20), contextlib.aclosing(told):
        assert (await anext(told)).event.id == (await look(whole, "left")).id


async def test_nothing_gets_into_one_that_is_being_deleted(harness: Harness) -> None:
    left = await make(harness, "left")
    handle = await left.draft(name="late")
    join = n.JoinNetwork(handle=handle, network="gibson_network")
    joined = (await left.pl.network.join(left.me, join)).handle
    deleting = await harness.until_hit("vch.containers", delete(harness, "left", force=True))
    assert not deleting.done()
    assert (await look(harness, "left")).state == "deleting"
    calls = [
        left.commit(handle),
        left.draft(name="later"),
        left.network("later"),
        left.pl.network.bind(left.me, n.BindNetwork(handle=joined)),
        left.pl.storage.create_volume(left.me, s.CreateVolume(name="later")),
        left.pl.service.put_kv(left.me, v.PutKv(key="later", value=b"v")),
        left.image("later"),
        left.pl.execution.list_containers(left.me, e.ListContainers()),
        change(harness, "left", cpus=1),
    ]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, NotFound), result
        assert result.facts == {"kind": "vch", "id": "left"}
    with pytest.raises(AlreadyExists):
        await make(harness, "left")
    harness.failpoints.disarm()
    deleting.cancel()
    await harness.crash()
    async with asyncio.timeout(20):
        while await harness.store.get("/vchs/left"):
            await asyncio.sleep(0.01)
    assert not harness.world.networks


@pytest.mark.parametrize("point", ["deleting", "containers", "networks", "storage", "rest", "swept"])
async def test_wherever_a_deletion_dies_the_next_start_ends_it(harness: Harness, point: str) -> None:
    left = await make(harness, "left")
    await left.run(name="cookie", network="gibson_network", volume=(await volume(left)).id)
    await left.pl.service.put_kv(left.me, v.PutKv(key="k", value=b"v"))
    token = await harness.pl.service.create_token(ME, g.CreateToken(subject="vera", role="viewer", vch="left"))
    deleting = await harness.until_hit(f"vch.{point}", delete(harness, "left", force=True))
    assert not deleting.done()
    deleting.cancel()
    await harness.crash()
    async with asyncio.timeout(20):
        while await harness.store.get("/vchs/left"):
            await asyncio.sleep(0.01)
    assert {row.key.split("/")[3] for row in await harness.store.range("/v/left/")} == {"events"}
    assert await harness.authority.identify(token.secret) is None
    assert not harness.world.incarnations
    assert not harness.world.networks
    assert not harness.world.volumes
    assert len(harness.world.layers) == 1
    await make(harness, "left")


async def volume(tenant: Driver) -> s.Volume:
    return await tenant.pl.storage.create_volume(tenant.me, s.CreateVolume())


async def test_what_was_under_way_when_it_began_goes_too(whole: Whole, left: Driver) -> None:
    """Everything at once with the deletion: each call succeeds or is told that there is no such VCH."""
    handles = [await left.set_state(await left.draft(name=f"c{number}"), "running") for number in range(12)]
    binds = [
        (await left.pl.network.join(left.me, n.JoinNetwork(handle=handle, network="gibson_network"))).handle
        for handle in handles
    ]
    calls: list[Any] = [left.commit(handle) for handle in handles]
    calls += [left.pl.network.bind(left.me, n.BindNetwork(handle=bind)) for bind in binds]
    calls += [left.network(f"n{number}") for number in range(4)]
    files = [images.tar([images.file(f"f{number}")]) for number in range(4)]
    calls += [uploaded(partial(left.image, f"i{number}", tar)) for number, tar in enumerate(files)]
    calls += [left.pl.service.put_kv(left.me, v.PutKv(key=f"k{number}", value=b"v")) for number in range(4)]
    calls.insert(9, delete(whole, "left", force=True))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[9] is None
    assert not [one for one in results if isinstance(one, BaseException) and not isinstance(one, NotFound)]
    assert {row.key.split("/")[3] for row in await whole.store.range("/v/left/")} == {"events"}
    assert {row.key.split("/")[3] for row in await whole.store.range("/layers/")} == {"default"}
    assert not whole.everywhere("incarnations")
    assert not whole.everywhere("networks")
    assert len(whole.world.layers) == 1


async def test_what_cannot_be_removed_yet_is_tried_again(whole: Whole, left: Driver) -> None:
    await left.run(name="cookie", network="gibson_network", host=whole.host)
    whole.world.fail("execution.signal", SubstrateFailed("the process hangs"))
    whole.world.fail("storage.remove_rootfs", SubstrateFailed("busy"))
    await delete(whole, "left", force=True)
    assert not whole.everywhere("incarnations")
    assert not whole.everywhere("rootfs")


async def test_another_process_sees_it_come_and_go(harness: Harness, second: Harness) -> None:
    await make(harness, "tenant")
    other = second.of("tenant")
    handle = await other.draft(name="cookie")
    await delete(harness, "tenant", force=True)
    with pytest.raises(NotFound):
        await other.commit(handle)
    await make(harness, "tenant")
    with pytest.raises(HandleInvalid):
        await other.commit(handle)
    await other.run(name="cookie", network="gibson_network")
    await asyncio.gather(
        delete(harness, "tenant", force=True),
        _unless_gone(delete(second, "tenant", force=True)),
        return_exceptions=False,
    )
    assert not harness.world.incarnations


@pytest.mark.parametrize("part", ["containers", "networks", "storage", "rest", "swept"])
async def test_a_slow_process_takes_nothing_from_a_later_one_of_the_name(
    harness: Harness, second: Harness, part: str
) -> None:
    """Another has deleted the VCH meanwhile, and its name stands for a new one."""
    await make(harness, "tenant")
    reached, go = asyncio.Event(), asyncio.Event()

    async def hold(_: str) -> None:
        harness.failpoints.disarm()
        reached.set()
        await go.wait()

    harness.failpoints.arm(f"vch.{part}", hold)
    second.failpoints.arm("vch.containers", lambda _: reached.wait())
    await delete(second, "tenant", force=True)
    later = await make(second, "tenant")
    await later.pl.storage.create_volume(later.me, s.CreateVolume(name="jar"))
    await later.pl.service.put_kv(later.me, v.PutKv(key="k", value=b"v"))
    await later.run(name="cookie", network="gibson_network", volume="jar")
    before = await everything(second, "tenant")
    go.set()
    async with asyncio.timeout(20):
        while any(getattr(task.get_coro(), "__qualname__", "") == TAKING for task in asyncio.all_tasks()):
            await asyncio.sleep(0)
    assert await everything(second, "tenant") == before
    assert (await later.inspect("cookie")).state == "running"


async def everything(harness: Harness, vch: str) -> list[tuple[str, bytes]]:
    return [(row.key, row.value) for row in await harness.store.range(keys.all_of(vch))]


async def _unless_gone(work: Any) -> None:
    with contextlib.suppress(NotFound):
        await work


async def test_many_vchs_are_listed_in_pages_and_counted_in_bounds(whole: Whole) -> None:
    for number in range(120):
        await whole.pl.service.create_vch(ME, v.CreateVch(name=f"t{number:03}"))
    page = await whole.pl.service.list_vchs(ME, v.ListVchs(limit=50))
    assert (len(page.vchs), page.next) == (50, "t048")
    rest = await whole.pl.service.list_vchs(ME, v.ListVchs(limit=100, after=page.next))
    assert (len(rest.vchs), rest.next) == (71, None)
    text = await whole.pl.service.metrics(ME, s.Nothing())
    assert "portlayer_vchs 121" in text
    assert text.count("portlayer_containers{") == 100


async def test_errors_of_a_vch_that_is_not_there(whole: Whole) -> None:
    nobody = whole.of("nobody")
    for call in (nobody.draft(), nobody.network(), nobody.image(), nobody.inspect("x")):
        with pytest.raises(PortlayerError) as caught:
            await call
        assert isinstance(caught.value, NotFound)
        assert caught.value.facts["kind"] == "vch"
