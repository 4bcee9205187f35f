"""Every kind of commit, what must hold after each, and the failpoints on its way. A new kind is one line of KINDS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import images
from commit_edits import EDITS, EDITS_OF_STOPPED, PORTS, Edit
from driver import ME, Driver
from harness import Harness

from portlayer.client import Steps, connect
from portlayer.components.placing import share
from portlayer.components.records import encode
from portlayer.model import execution as e
from portlayer.model import grants as g
from portlayer.model import network as n
from portlayer.model import service as v
from portlayer.model import storage as s
from portlayer.model.caller import Caller
from portlayer.model.errors import NotFound
from portlayer.model.names import new_id

Retry = Callable[[], Awaitable[Any]]
Picture = dict[str, tuple[Any, ...]]
Kind = Callable[[Driver], Awaitable[Retry]]


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


def create_and_fail_to_start(*args: str) -> Kind:
    """The program cannot be executed, which is a result."""

    async def kind(driver: Driver) -> Retry:
        handle = await driver.draft(*args, network="gibson_network", ports=PORTS, name="cookie")
        handle = await driver.set_state(handle, "running")
        return lambda: driver.commit(handle)

    return kind


async def fail_to_start(driver: Driver) -> Retry:
    """As a commit of its own, of what was there."""
    handle = await driver.draft("/no/such", network="gibson_network", ports=PORTS, name="cookie")
    await driver.commit(handle)
    handle = await driver.set_state(await driver.handle("cookie"), "running")
    return lambda: driver.commit(handle)


async def _existing(driver: Driver, state: str) -> str:
    handle = await driver.draft(network="gibson_network", ports=PORTS, volume="jar", name="cookie")
    if state != "created":
        handle = await driver.set_state(handle, "running")
    await driver.commit(handle)
    if state in ("paused", "stopped"):
        await driver.commit(await driver.set_state_at_once(await driver.handle("cookie"), state))
    return await driver.handle("cookie")


def to_state(before: str, after: str) -> Kind:
    async def kind(driver: Driver) -> Retry:
        handle = await _existing(driver, before)
        handle = await driver.set_state_at_once(handle, after)
        return lambda: driver.commit(handle)

    return kind


def edit(before: str, what: Edit | tuple[Edit, Edit]) -> Kind:
    async def kind(driver: Driver) -> Retry:
        await driver.network("second")
        await driver.pl.storage.create_volume(ME, s.CreateVolume(name="shelf"))
        handle = await _existing(driver, before)
        *first, last = what if isinstance(what, tuple) else (what,)
        for prior in first:
            await driver.commit(await prior(driver, handle))
            handle = await driver.handle("cookie")
        handle = await last(driver, handle)
        return lambda: driver.commit(handle)

    return kind


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


async def compose_under_a_key(driver: Driver) -> Retry:
    """Nothing but its key ties the second try to the first."""
    steps = Steps().create("busybox", "sleep", "1000", name="cookie").join_network("gibson_network").bind_network()
    key = new_id()

    async def composing() -> e.Committed:
        async with connect(driver.pl) as pl:
            return await pl.execution.commit(steps.set_state("running"), idempotency_key=key)

    return composing


async def several(driver: Driver) -> Retry:
    handles = tuple(
        [
            await driver.set_state(await driver.draft(network="gibson_network", name=f"c{index}"), "running")
            for index in range(3)
        ]
    )
    return lambda: driver.pl.execution.commit(ME, e.Commit(handles=handles))


async def several_of_each_sort(driver: Driver) -> Retry:
    """One starts, one is made, one gets another name, one stops."""
    stops = await driver.run(name="stops", network="gibson_network", ports=PORTS)
    renamed = await driver.run(name="before", network="gibson_network")
    waits = await driver.commit(await driver.draft(name="waits", network="gibson_network"))
    handles = (
        await driver.set_state_at_once(await driver.handle(stops.id), "stopped"),
        await driver.rename(await driver.handle(renamed.id), "after"),
        await driver.set_state(await driver.handle(waits.id), "running"),
        await driver.draft(name="cookie", network="gibson_network"),
    )
    return lambda: driver.pl.execution.commit(ME, e.Commit(handles=handles))


async def application(driver: Driver) -> Retry:
    """Twenty containers on three networks, each with a volume, half of them with the same one."""
    tiers = ("front", "middle", "back")
    for tier in tiers:
        await driver.network(tier)
    handles: list[str] = []
    for index in range(20):
        if index % 2:
            await driver.pl.storage.create_volume(ME, s.CreateVolume(name=f"v{index}"))
        volume = f"v{index}" if index % 2 else "jar"
        handle = await driver.draft(network=tiers[index % 3], volume=volume, name=f"c{index}")
        for tier in tiers[: index % 3]:
            handle = (await driver.pl.network.join(ME, n.JoinNetwork(handle=handle, network=tier))).handle
        handle = (await driver.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle
        handles.append(await driver.set_state(handle, "running"))
    commit = e.Commit(handles=tuple(handles))
    return lambda: driver.pl.execution.commit(ME, commit)


async def stop_several(driver: Driver) -> Retry:
    """None of which would stay stopped by itself."""
    always = e.RestartPolicy(name="always")
    for name in ("one", "two", "three"):
        await driver.run(name=name, network="gibson_network", restart_policy=always)
    handles = [await driver.set_state_at_once(await driver.handle(name), "stopped") for name in ("one", "two", "three")]
    return lambda: driver.pl.execution.commit(ME, e.Commit(handles=tuple(handles)))


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


async def import_compressed(driver: Driver) -> Retry:
    """The same image once more, its layer in another form."""
    tar = images.tar([images.directory("etc"), images.file("etc/motd", b"another\n")])
    await driver.archive(images.oci_archive(images.Built([tar], "another:latest")))
    data = images.oci_archive(images.Built([tar], "another:latest", compression="gzip"))

    async def importing() -> str:
        (image,) = await driver.archive(data)
        return image.layers[0].digest

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


async def create_vch(driver: Driver) -> Retry:
    caller = Caller(idempotency_key=new_id())
    return lambda: driver.pl.service.create_vch(caller, v.CreateVch(name="tenant"))


async def update_vch(driver: Driver) -> Retry:
    quota = v.QuotaChange(containers=7)
    return lambda: driver.pl.service.update_vch(ME, v.UpdateVch(ref="default", quota=quota))


async def create_token(driver: Driver) -> Retry:
    caller = Caller(idempotency_key=new_id())
    return lambda: driver.pl.service.create_token(caller, g.CreateToken(subject="crumb", role="operator"))


async def delete_token(driver: Driver) -> Retry:
    made = await driver.pl.service.create_token(ME, g.CreateToken(subject="crumb", role="operator"))

    async def deletion() -> None:
        with contextlib.suppress(NotFound):
            await driver.pl.service.delete_token(ME, g.GrantRef(id=made.token.id))

    return deletion


async def put_kv(driver: Driver) -> Retry:
    async def putting() -> bytes:
        return (await driver.pl.service.put_kv(ME, v.PutKv(key="crumb", value=b"of a cookie"))).value

    return putting


async def delete_kv(driver: Driver) -> Retry:
    await (await put_kv(driver))()

    async def deletion() -> None:
        with contextlib.suppress(NotFound):
            await driver.pl.service.delete_kv(ME, v.DeleteKv(key="crumb"))

    return deletion


async def lease(driver: Driver) -> Retry:
    joining = n.JoinNetwork(handle=await driver.draft(name="cookie"), network="gibson_network")
    binding = n.BindNetwork(handle=(await driver.pl.network.join(ME, joining)).handle)

    async def bound() -> tuple[n.Endpoint, ...]:
        return (await driver.pl.network.bind(ME, binding)).endpoints

    return bound


async def discard(driver: Driver) -> Retry:
    handle = await driver.draft(name="cookie", network="gibson_network")
    return lambda: driver.pl.execution.discard(ME, e.Discard(handle=handle))


async def delete_vch(driver: Driver) -> Retry:
    """Of a VCH that has one of everything."""
    await driver.pl.service.create_vch(ME, v.CreateVch(name="tenant"))
    tenant = driver.of("tenant")
    await tenant.image()
    await tenant.image("own", images.tar([images.file("own", b"layer\n")]))
    await tenant.network()
    await driver.pl.storage.create_volume(tenant.me, s.CreateVolume(name="jar"))
    await driver.pl.service.put_kv(tenant.me, v.PutKv(key="k", value=b"v"))
    await tenant.run(name="cookie", network="gibson_network", volume="jar")
    await tenant.draft(name="leased", network="gibson_network")

    async def deletion() -> None:
        with contextlib.suppress(NotFound):
            await driver.pl.service.delete_vch(ME, v.DeleteVch(ref="tenant", force=True))

    return deletion


def limited(kind: Kind) -> Kind:
    """*kind*, with limits on what it takes."""

    async def under_a_quota(driver: Driver) -> Retry:
        quota = v.QuotaChange(containers=5, storage_bytes=1 << 40, networks=5, addresses=5)
        await driver.pl.service.update_vch(ME, v.UpdateVch(ref="default", quota=quota))
        return await kind(driver)

    return under_a_quota


KINDS: dict[str, Kind] = {
    "create": create,
    "create and start": create_and_start,
    "create and start what is not there": create_and_fail_to_start("/no/such"),
    "create and start what cannot be executed": create_and_fail_to_start("/etc"),
    "start what is not there": fail_to_start,
    "create with both addresses": dual,
    "unbind both addresses": unbind_dual,
    "several": several,
    "stop several": stop_several,
    "several of each sort": several_of_each_sort,
    "compose under a key": compose_under_a_key,
    "an application": application,
    "create and start on a disk": create_and_start_on_a_disk,
    "remove with its volume": remove_with_volume(),
    "remove with its disk": remove_with_volume(16 << 20),
    "import an image": import_image,
    "import an image in another form": import_compressed,
    "delete an image": delete_image,
    "create a volume": create_volume,
    "delete a volume": delete_volume,
    "create a network": create_network,
    "delete a network": delete_network,
    "create a VCH": create_vch,
    "delete a VCH": delete_vch,
    "create a token": create_token,
    "create and start under a quota": limited(create_and_start),
    "several under a quota": limited(several),
    "import an image under a quota": limited(import_image),
    "create a network under a quota": limited(create_network),
    "remove when running under a quota": limited(remove("running")),
    **{f"{a} to {b}": to_state(a, b) for a, b in (("created", "running"), ("stopped", "running"))},
    **{f"{a} to {b}": to_state(a, b) for a, b in (("running", "paused"), ("paused", "running"))},
    **{f"{a} to stopped": to_state(a, "stopped") for a in ("running", "paused")},
    **{
        f"{what} when {before}": edit(before, how)
        for before in ("created", "running", "stopped")
        for what, how in (EDITS if before == "running" else EDITS | EDITS_OF_STOPPED).items()
    },
    **{f"remove when {before}": remove(before) for before in ("created", "running", "paused", "stopped")},
}


CALLS: dict[str, Kind] = {
    "change a quota": update_vch,
    "delete a token": delete_token,
    "set a value": put_kv,
    "delete a value": delete_kv,
    "lease an address": lease,
    "discard a handle": discard,
}
"""Those that pass no failpoint, for they change the store in one transaction after the other and nothing else."""


PERSISTENT = {"delete a VCH"}
"""What fails in them is tried again until it does not, and no caller is told."""


async def points(harness: Harness, kind: Kind) -> tuple[list[str], Picture]:
    """The failpoints that the kind passes, and what it leads to."""
    work = await kind(harness)
    harness.failpoints.seen.clear()
    await work()
    seen = list(dict.fromkeys(harness.failpoints.seen))
    return seen, await picture(harness)


def fallible(seen: list[str]) -> list[str]:
    """Of the failpoints that a kind passes, those before its steps that are undone where a later one fails."""
    ahead = seen[: seen.index("commit.record")] if "commit.record" in seen else []
    return [point for point in ahead if point.startswith("commit.before.")]


def addresses(endpoint: n.Endpoint) -> tuple[str, ...]:
    return tuple(address for address in (endpoint.address, endpoint.address6) if address)


async def check(harness: Harness) -> None:
    """Record and substrate agree, and nothing is there that no record explains."""
    async with asyncio.timeout(20):
        while any(vch.state == "deleting" for vch in await vchs(harness)):
            await asyncio.sleep(0.01)
    known: dict[str, set[str]] = {
        kind: set() for kind in ("containers", "volumes", "networks", "layers", "blobs", "published")
    }
    for vch in await vchs(harness):
        for kind, found in (await check_vch(harness, vch)).items():
            known[kind] |= found
    world = harness.world
    assert set(world.volumes) <= known["volumes"]
    assert set(world.networks) <= known["networks"]
    assert set(world.layers) == known["layers"]
    assert harness.blobs() == known["blobs"]
    assert set(world.published) == known["published"]
    assert {one.spec.id for one in world.incarnations.values()} <= known["containers"]
    assert set(world.rootfs) <= known["containers"]
    names = {vch.name for vch in await vchs(harness)}
    assert {row.key.split("/")[2] for row in await harness.store.range("/v/") if "/events/" not in row.key} <= names
    assert {row.key.split("/")[3] for row in await harness.store.range("/layers/")} <= names
    assert {row.key.split("/")[2] for row in await harness.store.range("/blobs/")} == known["blobs"]


async def check_vch(harness: Harness, vch: v.Vch) -> dict[str, set[str]]:
    """Record and substrate agree about *vch*; what it has, by kind."""
    store, world, pl, me = harness.store, harness.world, harness.pl, Caller(vch=vch.name)
    prefix = f"/v/{vch.name}"
    async with asyncio.timeout(20):
        while await store.count(f"{prefix}/intents/"):
            await asyncio.sleep(0.01)
    listed = (await pl.execution.list_containers(me, e.ListContainers())).containers
    for container in listed:
        live = [one for one in world.live(container.id) if one.state == "running"]
        assert bool(live) == (container.state in ("running", "paused")), container.state
        bound = {addresses(endpoint) for endpoint in container.endpoints if endpoint.state == "bound"}
        for one in live:
            assert {link.addresses for link in one.links.values()} == bound
    known = {container.id for container in listed}
    running = [container for container in listed if container.state in ("running", "paused")]
    publishing = {end.id for one in running for end in one.endpoints if end.ports and end.state == "bound"}
    volumes = (await pl.storage.list_volumes(me, s.ListVolumes())).volumes
    networks = {network.id for network in (await pl.network.list_networks(me, n.ListNetworks())).networks}
    images = (await pl.storage.list_images(me, s.ListImages())).images
    layers = {layer.diff_id: layer.unpacked_bytes for image in images for layer in image.layers}
    names = {row.value.decode() for row in await store.range(f"{prefix}/names/containers/")}
    assert names == known
    assert {row.key.rpartition("/")[2] for row in await store.range(f"{prefix}/observed/")} == known
    uses = {row.key.rpartition("/")[2] for row in await store.range(f"{prefix}/uses/")}
    assert uses <= known
    placed = [row for row in await store.range("/placed/") if f"/{vch.name}/" in row.key]
    assert {(row.key.split("/")[2], row.key.rpartition("/")[2], row.value) for row in placed} == {
        (one.host, one.id, encode(share(one.resources))) for one in listed
    }
    counted = await check_addresses(harness, vch.name, listed)
    usage = (await pl.service.get_vch(ME, v.VchRef(ref=vch.name))).usage
    async with asyncio.timeout(20):
        while usage.addresses != counted:  # a lease has run out between the two
            counted = await check_addresses(harness, vch.name, listed)
            usage = (await pl.service.get_vch(ME, v.VchRef(ref=vch.name))).usage
    assert usage == v.Usage(
        containers=len(known),
        cpus=sum(one.resources.cpus or 0 for one in listed),
        memory_bytes=sum(one.resources.memory_bytes or 0 for one in listed),
        storage_bytes=sum(layers.values()) + sum(volume.capacity_bytes or 0 for volume in volumes),
        networks=len(networks),
        addresses=counted,
        volumes=len(volumes),
        images=len(images),
    )
    return {
        "containers": known,
        "volumes": {volume.id for volume in volumes},
        "networks": networks,
        "layers": set(layers),
        "blobs": {layer.digest for image in images for layer in image.layers},
        "published": publishing,
    }


async def check_addresses(harness: Harness, vch: str, listed: tuple[e.Container, ...]) -> int:
    """Each that is taken is a container's or leased; how many there are."""
    prefix, counted = f"/v/{vch}", 0
    leased = await harness.store.count(f"{prefix}/leases/")
    for kind in ("addresses", "addresses6"):
        taken = {row.key.rpartition("/")[2] for row in await harness.store.range(f"{prefix}/{kind}/")}
        committed = {
            address
            for container in listed
            for endpoint in container.endpoints
            for address in addresses(endpoint)
            if (":" in address) == kind.endswith("6")
        }
        assert committed <= taken
        assert len(taken - committed) <= leased
        counted += len(taken)
    return counted


async def vchs(driver: Driver) -> tuple[v.Vch, ...]:
    return (await driver.pl.service.list_vchs(ME, v.ListVchs())).vchs


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
                container.exit_code,
                bool(container.start_error),
                sorted((end.network, end.state, len(addresses(end)), end.ports) for end in container.endpoints),
                [mount.volume for mount in container.mounts],
                container.resources.pids,
                container.labels,
                container.restart_policy,
                container.interaction,
            )
            for container in containers
        },
        "/networks": tuple(sorted(network.name for network in networks)),
        "/volumes": tuple(sorted("" if volume.anonymous else volume.name for volume in volumes)),
        "/images": tuple(sorted(name for image in known for name in image.names)),
        "/vchs": tuple(sorted((vch.name, vch.quota) for vch in await vchs(driver))),
        "/tokens": tuple(token.subject for token in (await driver.pl.service.list_tokens(ME, g.ListGrants())).tokens),
        "/values": (await value(driver),),
    }


async def value(driver: Driver) -> bytes:
    try:
        return (await driver.pl.service.get_kv(ME, v.KvRef(key="crumb"))).value
    except NotFound:
        return b""


async def clear(driver: Driver) -> None:
    """Back to `setting`."""
    free = v.QuotaChange(**dict.fromkeys(v.Quota.__struct_fields__))
    await driver.pl.service.update_vch(ME, v.UpdateVch(ref="default", quota=free))
    for token in (await driver.pl.service.list_tokens(ME, g.ListGrants())).tokens:
        await driver.pl.service.delete_token(ME, g.GrantRef(id=token.id))
    with contextlib.suppress(NotFound):
        await driver.pl.service.delete_kv(ME, v.DeleteKv(key="crumb"))
    for vch in await vchs(driver):
        if vch.name != "default":
            await driver.pl.service.delete_vch(ME, v.DeleteVch(ref=vch.name, force=True))
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
