"""What storage keeps of interfaces/storage.py, wherever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import images
import pytest
from driver import Driver

from portlayer.model import storage as s
from portlayer.model.errors import (
    AlreadyExists,
    HandleInvalid,
    InUse,
    InvalidArgument,
    NotFound,
)
from portlayer.model.execution import replace

DATA = b"many bytes " * 40_000
BUILT = images.Built([images.tar([images.file("data", DATA)])], "other:1", {"Cmd": ["/data"]})
PACKED = {"oci": images.oci_archive(BUILT), "docker": images.docker_archive(BUILT)}


class StorageSuite:
    @pytest.mark.parametrize("pack", PACKED)
    async def test_an_image_is_what_its_archive_says(self, driver: Driver, pack: str) -> None:
        (image,) = await driver.archive(PACKED[pack])
        assert (image.names, image.config.cmd) == (("other:1",), ("/data",))
        for ref in ("other:1", image.id):
            assert await driver.pl.storage.get_image(driver.me, s.ImageRef(ref=ref)) == image
        listed = await driver.pl.storage.list_images(driver.me, s.ListImages())
        assert (listed.images, listed.next) == ((image,), None)

    async def test_a_layer_comes_back_as_it_went_in(self, driver: Driver) -> None:
        (image,) = await driver.archive(PACKED["oci"])
        (layer,) = image.layers
        blob = await driver.pl.storage.get_layer(driver.me, s.LayerRef(digest=layer.digest))
        data = b"".join([piece async for piece in blob])
        assert (blob.size_bytes, images.digest(data)) == (len(data), layer.digest)
        blob = await driver.pl.storage.get_layer(driver.me, s.LayerRef(digest=layer.digest))
        await anext(blob)
        await blob.aclose()
        half = len(data) // 2
        for offset in (half, len(data)):
            blob = await driver.pl.storage.get_layer(driver.me, s.LayerRef(digest=layer.digest, offset=offset))
            assert (blob.size_bytes, b"".join([piece async for piece in blob])) == (len(data) - offset, data[offset:])
        for offset in (-1, len(data) + 1):
            with pytest.raises(InvalidArgument, match="offset") as caught:
                await driver.pl.storage.get_layer(driver.me, s.LayerRef(digest=layer.digest, offset=offset))
            assert caught.value.facts == {"pointer": "?offset"}
        with pytest.raises(NotFound):
            await driver.pl.storage.get_layer(driver.me, s.LayerRef(digest="sha256:" + "0" * 64))

    async def test_an_import_tells_how_far_it_is(self, driver: Driver) -> None:
        told: list[s.Progress] = []
        request = s.ImportImage(name="mine")
        imported = await driver.pl.storage.import_image(driver.me, request, images.stream(PACKED["oci"]), told.append)
        assert imported.images[0].names == ("mine:latest",)
        assert {one.status for one in told} >= {"reading", "unpacking", "unpacked"}
        layers = {layer.digest for layer in imported.images[0].layers}
        assert layers <= {one.id for one in told}

    @pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
    async def test_of_a_damaged_archive_nothing_stays(self, driver: Driver, damage: str) -> None:
        whole = PACKED["docker"]
        sent = {
            "cut": whole[: len(whole) // 2],
            "changed": whole.replace(b"many bytes", b"many bites", 1),
            "empty": b"",
        }
        with pytest.raises(InvalidArgument):
            await driver.archive(sent[damage])
        assert (await driver.pl.storage.list_images(driver.me, s.ListImages())).images == ()

    async def test_an_upload_whose_source_fails_leaves_nothing(self, driver: Driver) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield PACKED["oci"][:100_000]
            raise RuntimeError("the source is gone")

        with pytest.raises(RuntimeError, match="the source is gone"):
            await driver.pl.storage.import_image(driver.me, s.ImportImage(), broken())
        assert (await driver.pl.storage.list_images(driver.me, s.ListImages())).images == ()

    async def test_an_image_in_use_stays(self, driver: Driver) -> None:
        await driver.image()
        done = await driver.commit(await driver.draft(name="one"))
        with pytest.raises(InUse) as caught:
            await driver.pl.storage.delete_image(driver.me, s.DeleteImage(ref="busybox"))
        assert caught.value.facts["users"] == (done.id,)
        await driver.remove("one")
        await driver.pl.storage.delete_image(driver.me, s.DeleteImage(ref="busybox"))
        with pytest.raises(NotFound):
            await driver.pl.storage.get_image(driver.me, s.ImageRef(ref="busybox"))

    async def test_the_life_of_a_volume(self, driver: Driver) -> None:
        storage, me = driver.pl.storage, driver.me
        volume = await storage.create_volume(me, s.CreateVolume(name="jar", labels={"a": "1"}))
        assert await storage.get_volume(me, s.VolumeRef(ref="jar")) == volume
        with pytest.raises(AlreadyExists):
            await storage.create_volume(me, s.CreateVolume(name="jar"))
        other = await storage.create_volume(me, s.CreateVolume())
        assert (await storage.list_volumes(me, s.ListVolumes(label=("a=1",)))).volumes == (volume,)
        first = await storage.list_volumes(me, s.ListVolumes(limit=1))
        second = await storage.list_volumes(me, s.ListVolumes(limit=1, after=first.next))
        assert {one.id for one in (*first.volumes, *second.volumes)} == {volume.id, other.id}
        for ref in ("jar", other.id):
            await storage.delete_volume(me, s.VolumeRef(ref=ref))
            with pytest.raises(NotFound):
                await storage.get_volume(me, s.VolumeRef(ref=ref))

    async def test_the_same_key_gives_the_same_volume(self, driver: Driver) -> None:
        caller = replace(driver.me, idempotency_key="k")
        first = await driver.pl.storage.create_volume(caller, s.CreateVolume(name="jar"))
        assert await driver.pl.storage.create_volume(caller, s.CreateVolume(name="jar")) == first

    async def test_a_volume_outlives_who_writes_in_it(self, driver: Driver) -> None:
        await driver.image()
        await driver.pl.storage.create_volume(driver.me, s.CreateVolume(name="jar"))
        await driver.run("sh", "-c", "echo kept > /data/f", name="writer", volume="jar")
        assert (await driver.wait("writer")).exit_code == 0
        with pytest.raises(InUse):
            await driver.pl.storage.delete_volume(driver.me, s.VolumeRef(ref="jar"))
        await driver.remove("writer")
        await driver.run("sh", "-c", "read x < /data/f; [ $x = kept ]", name="reader", volume="jar")
        assert (await driver.wait("reader")).exit_code == 0
        (mount,) = (await driver.inspect("reader")).mounts
        assert (mount.volume, mount.destination, mount.read_only) == ("jar", "/data", False)

    async def test_joining_and_leaving(self, driver: Driver) -> None:
        await driver.image()
        storage, me = driver.pl.storage, driver.me
        await storage.create_volume(me, s.CreateVolume(name="jar"))
        handle = await driver.draft(name="one", volume="jar")
        for wrong, error in (
            (s.JoinVolume(handle=handle, volume="jar", destination="/data"), AlreadyExists),
            (s.JoinVolume(handle=handle, volume="jar", destination="relative"), InvalidArgument),
            (s.JoinVolume(handle=handle, volume="absent", destination="/other"), NotFound),
            (s.JoinVolume(handle="nonsense", volume="jar", destination="/other"), HandleInvalid),
        ):
            with pytest.raises(error):
                await storage.join(me, wrong)
        left = (await storage.leave(me, s.LeaveVolume(handle=handle, volume="jar"))).handle
        await driver.commit(left)
        assert (await driver.inspect("one")).mounts == ()
        await storage.delete_volume(me, s.VolumeRef(ref="jar"))

    async def test_the_stores_are_told(self, driver: Driver) -> None:
        request = s.ListStores()
        assert (await driver.pl.storage.image_stores(driver.me, request)).image_stores
        assert (await driver.pl.storage.volume_stores(driver.me, request)).volume_stores
