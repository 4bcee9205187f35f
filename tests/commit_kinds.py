"""Every kind of commit, what must hold after each, and the failpoints on its way. A new kind is one line of KINDS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from harness import ME, Harness

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.errors import NotFound

Retry = Callable[[], Awaitable[Any]]
Picture = dict[str, tuple[Any, ...]]
Kind = Callable[[Harness], Awaitable[Retry]]


async def create(harness: Harness) -> Retry:
    handle = await harness.draft(network="gibson_network", volume="jar", name="cookie")
    return lambda: harness.commit(handle)


async def create_and_start(harness: Harness) -> Retry:
    handle = await harness.draft(network="gibson_network", volume="jar", name="cookie")
    handle = await harness.set_state(handle, "running")
    return lambda: harness.commit(handle)


async def _existing(harness: Harness, state: str) -> str:
    handle = await harness.draft(network="gibson_network", volume="jar", name="cookie")
    if state != "created":
        handle = await harness.set_state(handle, "running")
    await harness.commit(handle)
    if state in ("paused", "stopped"):
        await harness.commit(await harness.set_state(await harness.handle("cookie"), state, timeout_seconds=0))
    return await harness.handle("cookie")


def to_state(before: str, after: str) -> Kind:
    async def kind(harness: Harness) -> Retry:
        handle = await _existing(harness, before)
        handle = await harness.set_state(handle, after, timeout_seconds=0)
        return lambda: harness.commit(handle)

    return kind


def edit(before: str, what: str) -> Kind:
    async def kind(harness: Harness) -> Retry:
        await harness.network("second")
        handle = await _existing(harness, before)
        match what:
            case "rename":
                handle = await harness.rename(handle, "biscuit")
            case "join":
                join = n.JoinNetwork(handle=handle, network="second")
                handle = (await harness.pl.network.join(ME, join)).handle
                handle = (await harness.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle
            case "unbind":
                handle = (await harness.pl.network.unbind(ME, n.BindNetwork(handle=handle))).handle
            case "leave":
                leave = n.LeaveNetwork(handle=handle, network="gibson_network")
                handle = (await harness.pl.network.leave(ME, leave)).handle
            case "volume":
                handle = (await harness.pl.storage.leave(ME, s.LeaveVolume(handle=handle, volume="jar"))).handle
            case "resources":
                change = e.SetResources(handle=handle, resources=e.Resources(pids=50))
                handle = (await harness.pl.execution.set_resources(ME, change)).handle
        return lambda: harness.commit(handle)

    return kind


def remove(before: str) -> Kind:
    async def kind(harness: Harness) -> Retry:
        await _existing(harness, before)

        async def removal() -> None:
            with contextlib.suppress(NotFound):
                await harness.remove("cookie", force=True)

        return removal

    return kind


async def remove_with_volume(harness: Harness) -> Retry:
    anonymous = await harness.pl.storage.create_volume(ME, s.CreateVolume())
    await harness.commit(await harness.draft(volume=anonymous.name, name="cookie"))

    async def removal() -> None:
        with contextlib.suppress(NotFound):
            await harness.remove("cookie", volumes=True)
        volumes = (await harness.pl.storage.list_volumes(ME, s.ListVolumes())).volumes
        assert anonymous not in volumes

    return removal


async def several(harness: Harness) -> Retry:
    handles = tuple(
        [
            await harness.set_state(await harness.draft(network="gibson_network", name=f"c{index}"), "running")
            for index in range(3)
        ]
    )
    return lambda: harness.pl.execution.commit(ME, e.Commit(handles=handles))


KINDS: dict[str, Kind] = {
    "create": create,
    "create and start": create_and_start,
    "several": several,
    "remove with its volume": remove_with_volume,
    **{f"{a} to {b}": to_state(a, b) for a, b in (("created", "running"), ("stopped", "running"))},
    **{f"{a} to {b}": to_state(a, b) for a, b in (("running", "paused"), ("paused", "running"))},
    **{f"{a} to stopped": to_state(a, "stopped") for a in ("running", "paused")},
    **{
        f"{what} when {before}": edit(before, what)
        for before in ("created", "running", "stopped")
        for what in ("rename", "join", "unbind", "leave", "resources")
    },
    **{f"volume when {before}": edit(before, "volume") for before in ("created", "stopped")},
    **{f"remove when {before}": remove(before) for before in ("created", "running", "paused", "stopped")},
}


async def points(harness: Harness, kind: Kind) -> tuple[list[str], Picture]:
    """The failpoints that the kind passes, and what it leads to."""
    work = await kind(harness)
    harness.failpoints.seen.clear()
    await work()
    seen = list(dict.fromkeys(harness.failpoints.seen))
    return seen, await picture(harness)


async def check(harness: Harness) -> None:
    """Record and substrate agree, and nothing is there that no record explains."""
    store, world = harness.store, harness.world
    async with asyncio.timeout(20):
        while await store.count("/v/default/intents/"):
            await asyncio.sleep(0.01)
    listed = (await harness.pl.execution.list_containers(ME, e.ListContainers())).containers
    for container in listed:
        live = [one for one in world.live(container.id) if one.state == "running"]
        assert bool(live) == (container.state in ("running", "paused")), container.state
        bound = {endpoint.address for endpoint in container.endpoints if endpoint.state == "bound"}
        for one in live:
            assert {link.address for link in one.links.values()} == bound
    known = {container.id for container in listed}
    volumes = {volume.id for volume in (await harness.pl.storage.list_volumes(ME, s.ListVolumes())).volumes}
    assert set(world.volumes) <= volumes
    assert {one.spec.id for one in world.incarnations.values()} <= known
    assert set(world.rootfs) <= known
    names = {row.value.decode() for row in await store.range("/v/default/names/containers/")}
    assert names == known
    assert {row.key.rpartition("/")[2] for row in await store.range("/v/default/observed/")} == known
    uses = {row.key.rpartition("/")[2] for row in await store.range("/v/default/uses/")}
    assert uses <= known
    addresses = {row.key.rpartition("/")[2] for row in await store.range("/v/default/addresses/")}
    committed = {
        endpoint.address for container in listed for endpoint in container.endpoints if endpoint.state == "bound"
    }
    leased = {row.value for row in await store.range("/v/default/leases/")}
    assert committed <= addresses
    assert len(addresses - committed) <= len(leased)


async def picture(harness: Harness) -> Picture:
    """What a caller sees of all containers."""
    listed = (await harness.pl.execution.list_containers(ME, e.ListContainers())).containers
    return {
        container.name: (
            container.revision,
            container.state,
            sorted((endpoint.network, endpoint.state) for endpoint in container.endpoints),
            [mount.volume for mount in container.mounts],
            container.resources.pids,
        )
        for container in listed
    }


async def clear(harness: Harness) -> None:
    for container in (await harness.pl.execution.list_containers(ME, e.ListContainers())).containers:
        await harness.remove(container.id, force=True)
    with contextlib.suppress(NotFound):
        await harness.pl.network.delete_network(ME, n.NetworkRef(ref="second"))
    assert harness.world.incarnations == {}
    assert harness.world.rootfs == {}


async def setting(harness: Harness) -> None:
    """What the kinds need to be there."""
    await harness.network()
    await harness.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
