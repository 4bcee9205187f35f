"""Every kind of commit, what must hold after each, and the failpoints on its way. A new kind is one line of KINDS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import images
from driver import ME, Driver
from harness import Harness

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.caller import Caller
from portlayer.model.errors import NotFound
from portlayer.model.names import new_id

Retry = Callable[[], Awaitable[Any]]
Picture = dict[str, tuple[Any, ...]]
Kind = Callable[[Driver], Awaitable[Retry]]
PORTS = (n.Port(container_port=80, host_port=18099),)


async def create(driver: Driver) -> Retry:
    handle = await driver.draft(network="gibson_network", ports=PORTS, volume="jar", name="cookie")
    return lambda: driver.commit(handle)


async def create_and_start(driver: Driver) -> Retry:
    handle = await driver.draft(network="gibson_network", ports=PORTS, volume="jar", name="cookie")
    handle = await driver.set_state(handle, "running")
    return lambda: driver.commit(handle)


async def create_and_start_on_a_disk(driver: Driver) -> Retry:
    await driver.pl.storage.create_volume(ME, s.CreateVolume(name="cask", capacity_bytes=16 << 20))
    handle = await driver.set_state(await driver.draft(volume="cask", name="cookie"), "running")
    return lambda: driver.commit(handle)


async def _existing(driver: Driver, state: str) -> str:
    handle = await driver.draft(network="gibson_network", ports=PORTS, volume="jar", name="cookie")
    if state != "created":
        handle = await driver.set_state(handle, "running")
    await driver.commit(handle)
    if state in ("paused", "stopped"):
        await driver.commit(await driver.set_state(await driver.handle("cookie"), state, timeout_seconds=0))
    return await driver.handle("cookie")


def to_state(before: str, after: str) -> Kind:
    async def kind(driver: Driver) -> Retry:
        handle = await _existing(driver, before)
        handle = await driver.set_state(handle, after, timeout_seconds=0)
        return lambda: driver.commit(handle)

    return kind


def edit(before: str, what: str) -> Kind:
    async def kind(driver: Driver) -> Retry:
        await driver.network("second")
        handle = await _existing(driver, before)
        match what:
            case "rename":
                handle = await driver.rename(handle, "biscuit")
            case "join":
                join = n.JoinNetwork(handle=handle, network="second")
                handle = (await driver.pl.network.join(ME, join)).handle
                handle = (await driver.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle
            case "unbind":
                handle = (await driver.pl.network.unbind(ME, n.BindNetwork(handle=handle))).handle
            case "leave":
                leave = n.LeaveNetwork(handle=handle, network="gibson_network")
                handle = (await driver.pl.network.leave(ME, leave)).handle
            case "rejoin":
                handle = await _rejoined(driver, handle)
            case "volume":
                handle = (await driver.pl.storage.leave(ME, s.LeaveVolume(handle=handle, volume="jar"))).handle
            case "resources":
                change = e.SetResources(handle=handle, resources=e.Resources(pids=50))
                handle = (await driver.pl.execution.set_resources(ME, change)).handle
        return lambda: driver.commit(handle)

    return kind


async def _rejoined(driver: Driver, handle: str) -> str:
    """Out of the network and in again, with the address and the port that it had."""
    had = (await driver.inspect("cookie")).endpoints[0]
    handle = (await driver.pl.network.leave(ME, n.LeaveNetwork(handle=handle, network=had.network))).handle
    join = n.JoinNetwork(handle=handle, network=had.network, address=had.address, ports=PORTS)
    handle = (await driver.pl.network.join(ME, join)).handle
    return (await driver.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle


def remove(before: str) -> Kind:
    async def kind(driver: Driver) -> Retry:
        await _existing(driver, before)

        async def removal() -> None:
            with contextlib.suppress(NotFound):
                await driver.remove("cookie", force=True)

        return removal

    return kind


def remove_with_volume(capacity_bytes: int | None = None) -> Kind:
    async def kind(driver: Driver) -> Retry:
        request = s.CreateVolume(capacity_bytes=capacity_bytes)
        anonymous = await driver.pl.storage.create_volume(ME, request)
        await driver.commit(await driver.draft(volume=anonymous.name, name="cookie"))

        async def removal() -> None:
            with contextlib.suppress(NotFound):
                await driver.remove("cookie", volumes=True)
            volumes = (await driver.pl.storage.list_volumes(ME, s.ListVolumes())).volumes
            assert anonymous not in volumes

        return removal

    return kind


async def several(driver: Driver) -> Retry:
    handles = tuple(
        [
            await driver.set_state(await driver.draft(network="gibson_network", name=f"c{index}"), "running")
            for index in range(3)
        ]
    )
    return lambda: driver.pl.execution.commit(ME, e.Commit(handles=handles))


async def dual(driver: Driver) -> Retry:
    await driver.network("dual", ipv6=True)
    handle = await driver.set_state(await driver.draft(network="dual", name="cookie"), "running")
    return lambda: driver.commit(handle)


async def unbind_dual(driver: Driver) -> Retry:
    await (await dual(driver))()
    handle = (await driver.pl.network.unbind(ME, n.BindNetwork(handle=await driver.handle("cookie")))).handle
    return lambda: driver.commit(handle)


async def import_image(driver: Driver) -> Retry:
    tar = images.tar([images.directory("etc"), images.file("etc/motd", b"another\n")])

    caller = Caller(idempotency_key=new_id())

    async def importing() -> str:
        return (await driver.image("another", tar, caller)).id

    return importing


async def delete_volume(driver: Driver) -> Retry:
    await driver.pl.storage.create_volume(ME, s.CreateVolume(name="crate"))
    await driver.commit(await driver.draft(volume="crate", name="cookie"))
    await driver.remove("cookie")

    async def deletion() -> None:
        with contextlib.suppress(NotFound):
            await driver.pl.storage.delete_volume(ME, s.VolumeRef(ref="crate"))

    return deletion


async def create_network(driver: Driver) -> Retry:
    caller = Caller(idempotency_key=new_id())
    return lambda: driver.pl.network.create_network(caller, n.CreateNetwork(name="extra"))


async def create_volume(driver: Driver) -> Retry:
    caller = Caller(idempotency_key=new_id())
    return lambda: driver.pl.storage.create_volume(caller, s.CreateVolume(name="extra"))


async def delete_network(driver: Driver) -> Retry:
    await driver.network("extra")
    await driver.commit(await driver.draft(network="extra", name="cookie"))
    await driver.remove("cookie")

    async def deletion() -> None:
        with contextlib.suppress(NotFound):
            await driver.pl.network.delete_network(ME, n.NetworkRef(ref="extra"))

    return deletion


async def delete_image(driver: Driver) -> Retry:
    await (await import_image(driver))()

    async def deletion() -> None:
        with contextlib.suppress(NotFound):
            await driver.pl.storage.delete_image(ME, s.DeleteImage(ref="another"))

    return deletion


KINDS: dict[str, Kind] = {
    "create": create,
    "create and start": create_and_start,
    "create with both addresses": dual,
    "unbind both addresses": unbind_dual,
    "several": several,
    "create and start on a disk": create_and_start_on_a_disk,
    "remove with its volume": remove_with_volume(),
    "remove with its disk": remove_with_volume(16 << 20),
    "import an image": import_image,
    "delete an image": delete_image,
    "create a volume": create_volume,
    "delete a volume": delete_volume,
    "create a network": create_network,
    "delete a network": delete_network,
    **{f"{a} to {b}": to_state(a, b) for a, b in (("created", "running"), ("stopped", "running"))},
    **{f"{a} to {b}": to_state(a, b) for a, b in (("running", "paused"), ("paused", "running"))},
    **{f"{a} to stopped": to_state(a, "stopped") for a in ("running", "paused")},
    **{
        f"{what} when {before}": edit(before, what)
        for before in ("created", "running", "stopped")
        for what in ("rename", "join", "unbind", "leave", "rejoin", "resources")
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


def addresses(endpoint: n.Endpoint) -> tuple[str, ...]:
    return tuple(address for address in (endpoint.address, endpoint.address6) if address)


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
        bound = {addresses(endpoint) for endpoint in container.endpoints if endpoint.state == "bound"}
        for one in live:
            assert {link.addresses for link in one.links.values()} == bound
    known = {container.id for container in listed}
    volumes = {volume.id for volume in (await harness.pl.storage.list_volumes(ME, s.ListVolumes())).volumes}
    assert set(world.volumes) <= volumes
    running = [container for container in listed if container.state in ("running", "paused")]
    publishing = {end.id for one in running for end in one.endpoints if end.ports and end.state == "bound"}
    assert set(world.published) == publishing
    networks = {network.id for network in (await harness.pl.network.list_networks(ME, n.ListNetworks())).networks}
    assert set(world.networks) <= networks
    images = (await harness.pl.storage.list_images(ME, s.ListImages())).images
    assert set(world.layers) == {layer.diff_id for image in images for layer in image.layers}
    assert {one.spec.id for one in world.incarnations.values()} <= known
    assert set(world.rootfs) <= known
    names = {row.value.decode() for row in await store.range("/v/default/names/containers/")}
    assert names == known
    assert {row.key.rpartition("/")[2] for row in await store.range("/v/default/observed/")} == known
    uses = {row.key.rpartition("/")[2] for row in await store.range("/v/default/uses/")}
    assert uses <= known
    leased = {row.value for row in await store.range("/v/default/leases/")}
    for kind in ("addresses", "addresses6"):
        taken = {row.key.rpartition("/")[2] for row in await store.range(f"/v/default/{kind}/")}
        committed = {
            address
            for container in listed
            for endpoint in container.endpoints
            for address in addresses(endpoint)
            if (":" in address) == kind.endswith("6")
        }
        assert committed <= taken
        assert len(taken - committed) <= len(leased)


async def picture(driver: Driver) -> Picture:
    """What a caller sees of everything."""
    containers = (await driver.pl.execution.list_containers(ME, e.ListContainers())).containers
    networks = (await driver.pl.network.list_networks(ME, n.ListNetworks())).networks
    volumes = (await driver.pl.storage.list_volumes(ME, s.ListVolumes())).volumes
    known = (await driver.pl.storage.list_images(ME, s.ListImages())).images
    return {
        **{
            container.name: (
                container.revision,
                container.state,
                sorted((end.network, end.state, len(addresses(end))) for end in container.endpoints),
                [mount.volume for mount in container.mounts],
                container.resources.pids,
            )
            for container in containers
        },
        "/networks": tuple(sorted(network.name for network in networks)),
        "/volumes": tuple(sorted("" if volume.anonymous else volume.name for volume in volumes)),
        "/images": tuple(sorted(name for image in known for name in image.names)),
    }


async def clear(driver: Driver) -> None:
    """Back to `setting`."""
    for container in (await driver.pl.execution.list_containers(ME, e.ListContainers())).containers:
        await driver.remove(container.id, force=True)
    for network in (await driver.pl.network.list_networks(ME, n.ListNetworks())).networks:
        if network.name != "gibson_network":
            await driver.pl.network.delete_network(ME, n.NetworkRef(ref=network.id))
    for volume in (await driver.pl.storage.list_volumes(ME, s.ListVolumes())).volumes:
        if volume.name != "jar":
            await driver.pl.storage.delete_volume(ME, s.VolumeRef(ref=volume.id))
    for image in (await driver.pl.storage.list_images(ME, s.ListImages())).images:
        if "busybox:latest" not in image.names:
            await driver.pl.storage.delete_image(ME, s.DeleteImage(ref=image.id, prune=True))


async def setting(driver: Driver) -> None:
    """What the kinds need to be there."""
    await driver.network()
    await driver.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
