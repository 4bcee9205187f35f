"""Layers that a host lacks come from the storage component: once, verified, and nothing of them stays by half."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, Literal

import images
import pytest
from apart.cluster import HOSTS, TOPOLOGIES, Cluster
from driver import ME, Driver
from harness import Harness

from portlayer.components import layers
from portlayer.compose import Settings
from portlayer.model import service as m
from portlayer.model import storage as s
from portlayer.model.caller import Caller
from portlayer.model.errors import ResourceExhausted, SubstrateFailed, Unavailable
from portlayer.stores.memory import MemoryStore
from portlayer.substrates.memory.world import Step

ROOTFS = images.tar([images.directory("bin"), images.file("bin/busybox", images.BUSYBOX.read_bytes(), mode=0o755)])
TOP = images.tar([images.symlink(f"bin/{name}", "busybox") for name in ("sh", "sleep")])


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Storage is on host west, with an image of three layers in different forms."""
    async with Cluster(TOPOLOGIES[HOSTS], MemoryStore(), tmp_path) as cluster:
        await cluster.driver("west").archive(archive())
        yield cluster


def archive(name: str = "busybox:latest", compression: Literal["", "gzip", "zstd"] = "gzip", **config: Any) -> bytes:
    extra = images.tar([images.file("etc/much", b"m" * (3 << 20))])
    whole = images.Built([ROOTFS, TOP, extra], name, {"Cmd": ["sh"], **config}, compression=compression)
    return images.oci_archive(whole)


async def layers_of(driver: Driver) -> set[str]:
    image = await driver.pl.storage.get_image(driver.me, s.ImageRef(ref="busybox"))
    return {layer.diff_id for layer in image.layers}


@pytest.fixture
def fetched(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """How often each blob is asked of storage."""
    counted: collections.Counter[str] = collections.Counter()
    storage = cluster.driver("west").pl.storage
    kind = type(storage)
    original = kind.get_layer

    async def get_layer(self: object, caller: object, request: s.LayerRef) -> object:
        counted[request.digest] += 1
        return await original(self, caller, request)

    monkeypatch.setattr(kind, "get_layer", get_layer)
    return counted


async def test_they_come_once_however_many_want_them(cluster: Cluster, fetched: collections.Counter[str]) -> None:
    driver = cluster.driver("east")
    assert not cluster.worlds["east"].layers
    handles = [
        await driver.set_state(await driver.draft(host="east", name=f"c{number}"), "running") for number in range(12)
    ]
    done = await asyncio.gather(*(driver.commit(handle) for handle in handles))
    assert {one.state for one in done} == {"running"}
    assert set(cluster.worlds["east"].layers) == await layers_of(driver)
    assert sorted(fetched.values()) == [1, 1, 1]
    await driver.run(host="east", name="later")
    await driver.run(host="west", name="there")
    assert sorted(fetched.values()) == [1, 1, 1]
    assert not any((cluster.state("east") / "fetching").iterdir())
    assert not (cluster.state("east") / "blobs" / "sha256").exists()


async def test_each_vch_has_them_by_its_own_image(cluster: Cluster, fetched: collections.Counter[str]) -> None:
    driver = cluster.driver("east")
    await driver.pl.service.create_vch(ME, m.CreateVch(name="tenant"))
    tenant = driver.of("tenant")
    await tenant.archive(archive("cookies:latest", "zstd"))
    first, second = await asyncio.gather(
        driver.commit(await driver.draft(host="east")),
        tenant.commit(await tenant.draft(host="east", image="cookies")),
    )
    assert {first.state, second.state} == {"created"}
    assert sum(fetched.values()) == 3, "unpacked they are the same"


@pytest.mark.parametrize("how", ["other bytes", "cut short", "too long", "another layer"])
async def test_what_is_damaged_is_refused_and_nothing_is_kept(cluster: Cluster, how: str) -> None:
    driver = cluster.driver("east")
    blobs = sorted((cluster.state("west") / "blobs" / "sha256").iterdir(), key=lambda file: file.stat().st_size)
    whole = blobs[-1].read_bytes()
    damaged = {
        "other bytes": whole[:5000] + b"!" + whole[5001:],
        "cut short": whole[:-1],
        "too long": whole + b"\0" * 10_000,
        "another layer": blobs[0].read_bytes(),
    }
    blobs[-1].write_bytes(damaged[how])
    handle = await driver.draft(host="east", name="cookie", volume=None)
    with pytest.raises(SubstrateFailed, match="damaged") as refused:
        await driver.commit(handle)
    assert refused.value.facts["step"] == "MakeRootfs"
    assert len(cluster.worlds["east"].layers) < 3
    assert not cluster.worlds["east"].rootfs
    assert not any((cluster.state("east") / "fetching").iterdir())
    blobs[-1].write_bytes(whole)
    assert (await driver.commit(handle)).state == "created"


class Breaking:
    """A blob of which one piece comes, and then nothing more."""

    def __init__(self, blob: Any) -> None:
        self._blob = blob
        self.size_bytes = blob.size_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(self._blob):
            yield await anext(self._blob)
            raise SubstrateFailed("The cable is pulled.")


@pytest.fixture
def offsets(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where each connection for the largest layer began. While `BROKEN` is among them, each of them breaks."""
    seen: list[int] = []
    storage = cluster.process("west").here.storage
    original = storage.get_layer

    async def get_layer(caller: Caller, request: s.LayerRef) -> Any:
        blob = await original(caller, request)
        if request.offset + blob.size_bytes < 3 << 20:
            return blob
        seen.append(request.offset)
        return Breaking(blob) if BROKEN in seen or len(seen) <= 2 else blob

    monkeypatch.setattr(storage, "get_layer", get_layer)
    monkeypatch.setattr(layers, "PAUSES", (0.0, 0.0, 0.0))
    return seen


BROKEN = -1


async def of_metrics(cluster: Cluster, name: str) -> dict[str, float]:
    """The figures of east about layers that are called *name*, by label."""
    text = await cluster.driver("east").pl.service.metrics(ME, s.Nothing())
    lines = [line.removeprefix(f"portlayer_layer_{name}").split(" ") for line in text.splitlines() if name in line]
    return {label: float(value) for label, value in (line for line in lines if len(line) == 2)}


async def test_a_layer_that_breaks_off_goes_on_where_it_was(cluster: Cluster, offsets: list[int]) -> None:
    driver = cluster.driver("east")
    (image,) = await driver.archive(archive("plain:latest", ""))
    assert (await driver.commit(await driver.draft(host="east", image="plain"))).state == "created"
    assert set(cluster.worlds["east"].layers) == {layer.diff_id for layer in image.layers}
    first, second, third = offsets
    assert (first, 0 < second < third) == (0, True)
    assert await of_metrics(cluster, "fetched_bytes_total") == {"": sum(layer.size_bytes for layer in image.layers)}
    assert await of_metrics(cluster, "fetches_total") == {'{result="ok"}': 3}
    assert await of_metrics(cluster, "fetch_breaks_total") == {"": 2}


async def test_a_layer_that_breaks_off_again_and_again_is_given_up(cluster: Cluster, offsets: list[int]) -> None:
    driver = cluster.driver("east")
    await driver.archive(archive("plain:latest", ""))
    handle = await driver.draft(host="east", image="plain")
    offsets.append(BROKEN)
    with pytest.raises(Unavailable, match="broke off"):
        await driver.commit(handle)
    assert len(offsets[1:]) == 4
    assert not cluster.worlds["east"].rootfs
    assert not any((cluster.state("east") / "fetching").iterdir())
    assert (await of_metrics(cluster, "fetches_total"))['{result="failed"}'] == 1
    offsets.remove(BROKEN)
    assert (await driver.commit(handle)).state == "created"


async def test_a_layer_that_goes_on_as_another_is_refused(cluster: Cluster, offsets: list[int]) -> None:
    driver = cluster.driver("east")
    (image,) = await driver.archive(archive("plain:latest", ""))
    file = cluster.state("west") / "blobs" / "sha256" / image.layers[2].digest.removeprefix("sha256:")
    whole = file.read_bytes()
    file.write_bytes(whole[:-5000] + b"!" + whole[-4999:])
    with pytest.raises(SubstrateFailed, match="damaged"):
        await driver.commit(await driver.draft(host="east", image="plain"))
    assert len(offsets) == 3


async def test_storage_that_starts_anew_under_a_fetch_only_delays_the_commit(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = cluster.driver("east")
    one = images.busybox_rootfs([images.file("much", b"m" * (3 << 20))])
    await driver.archive(images.oci_archive(images.Built([one], "one:latest", {"Cmd": ["sh"]})))
    reached, storage = asyncio.Event(), cluster.process("west").here.storage
    original = storage.get_layer

    class Stuck(Breaking):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield await anext(self._blob)
            reached.set()
            await asyncio.Event().wait()

    async def get_layer(caller: Caller, request: s.LayerRef) -> Any:
        return Stuck(await original(caller, request))

    monkeypatch.setattr(storage, "get_layer", get_layer)
    committing = asyncio.ensure_future(driver.commit(await driver.draft(host="east", image="one")))
    await reached.wait()
    await cluster.stop("west")
    await cluster.start(cluster.topology.part("west"))
    assert (await committing).state == "created"


async def test_storage_that_is_away_is_named_and_the_same_handle_commits_later(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    handle = await driver.draft(host="east", network=None)
    await cluster.stop("west")
    with pytest.raises(Unavailable, match="storage") as away:
        await driver.commit(handle)
    assert away.value.facts["retry_after_seconds"]
    assert not cluster.worlds["east"].rootfs
    await cluster.start(cluster.topology.part("west"))
    async with asyncio.timeout(20):
        while True:
            try:
                done = await driver.commit(handle)
                break
            except Unavailable:
                await asyncio.sleep(0.01)
    assert done.state == "created"


async def test_a_full_disk(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    cluster.worlds["east"].disk_bytes = 1 << 20
    handle = await driver.draft(host="east")
    with pytest.raises(ResourceExhausted):
        await driver.commit(handle)
    assert not any((cluster.state("east") / "fetching").iterdir())
    cluster.worlds["east"].disk_bytes = None
    assert (await driver.commit(handle)).state == "created"


@pytest.mark.parametrize("point", ["layer.fetched", "layer.unpacked"])
async def test_a_process_that_dies_half_way_leaves_nothing(tmp_path: Path, point: str) -> None:
    """On one host: what somebody has taken away there comes back in the same way."""
    store = MemoryStore()

    async def same() -> MemoryStore:
        return store

    harness = Harness(same, tmp_path, Settings())
    await harness.start()
    try:
        await harness.archive(archive())
        layers = set(harness.world.layers)
        harness.world.layers.clear()
        handle = await harness.draft(name="cookie")
        dying = await harness.until_hit(point, harness.commit(handle))
        assert not dying.done()
        left = {file: file.read_bytes() for file in (tmp_path / "fetching").iterdir()}
        assert left
        await harness.crash()
        for file, data in left.items():
            file.write_bytes(data)  # who is cancelled cleans up, who is killed cannot
        await harness.crash()
        assert not any((tmp_path / "fetching").iterdir())
        assert not harness.world.rootfs
        assert (await harness.commit(handle)).state == "created"
        assert set(harness.world.layers) == layers
    finally:
        await harness.close()


async def test_layers_that_no_image_has_go_from_all_hosts_but_not_under_a_commit(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    done = await driver.commit(await driver.draft(host="east"))
    await cluster.sweep("east")
    assert len(cluster.worlds["east"].layers) == 3
    await driver.remove(done.id)
    await driver.pl.storage.delete_image(ME, s.DeleteImage(ref="busybox"))
    assert not cluster.worlds["west"].layers
    await cluster.sweep("east")
    assert not cluster.worlds["east"].layers


async def test_a_sweep_leaves_what_commits_are_about_to_use(cluster: Cluster) -> None:
    """Images come and go while their containers are made and the host is swept all the time."""
    driver, stop = cluster.driver("east"), asyncio.Event()

    async def sweep() -> None:
        while not stop.is_set():
            await cluster.sweep("east")

    async def cycle(number: int) -> None:
        for turn in range(4):
            name = f"image-{number}:latest"
            await driver.archive(archive(name, Labels={"of": f"{number}.{turn}"}))
            await driver.commit(await driver.draft(host="east", image=name, name=f"c{number}"))
            await driver.remove(f"c{number}")
            await driver.pl.storage.delete_image(ME, s.DeleteImage(ref=name))

    sweeping = asyncio.ensure_future(sweep())
    await asyncio.gather(*(cycle(number) for number in range(4)))
    stop.set()
    await sweeping


async def test_a_layer_that_is_just_being_removed_is_fetched_anew(cluster: Cluster) -> None:
    driver = cluster.driver("east")
    await driver.remove((await driver.commit(await driver.draft(host="east"))).id)
    await driver.pl.storage.delete_image(ME, s.DeleteImage(ref="busybox"))
    reached, go = asyncio.Event(), asyncio.Event()

    def hold(step: Step) -> Awaitable[object] | None:
        if step.name != "storage.remove_layer":
            return None
        reached.set()
        return go.wait()

    cluster.worlds["east"].before(hold)
    sweeping = asyncio.ensure_future(cluster.sweep("east"))
    await reached.wait()
    await driver.archive(archive())
    committing = asyncio.ensure_future(driver.commit(await driver.draft(host="east")))
    done, _ = await asyncio.wait([committing], timeout=0.2)
    assert not done
    go.set()
    await sweeping
    assert (await committing).state == "created"
    assert len(cluster.worlds["east"].layers) == 3
