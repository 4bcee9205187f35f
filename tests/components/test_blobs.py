"""Layers are kept as they came, once each, for as long as an image has them."""

from __future__ import annotations

import images
import pytest
from harness import ME, Harness
from images import Built

from portlayer.model import storage as s
from portlayer.model.errors import NotFound

TAR = images.tar([images.file("etc/motd", b"a layer\n" * 50)])
PLAIN = images.oci_archive(Built([TAR], "plain:1"))
GZIP = images.oci_archive(Built([TAR], "gzip:1", compression="gzip"))


async def test_a_blob_stays_in_the_form_in_which_it_came(harness: Harness) -> None:
    before = harness.blobs()
    (image,) = await harness.archive(GZIP)
    assert [layer.digest for layer in image.layers] == [images.digest(images.compress(TAR, "gzip"))]
    assert harness.blobs() - before == {image.layers[0].digest}


async def test_the_blob_of_a_root_filesystem_is_its_tar(harness: Harness) -> None:
    image = await harness.image("rootfs", images.compress(TAR, "zstd"))
    assert image.layers[0].digest == images.digest(TAR)
    assert images.digest(TAR) in harness.blobs()


async def test_images_share_a_blob_until_the_last_of_them_goes(harness: Harness) -> None:
    before = harness.blobs()
    await harness.archive(PLAIN)
    other = images.oci_archive(Built([TAR, images.tar([images.file("more", b"x")])], "two:1"))
    (two,) = await harness.archive(other)
    assert harness.blobs() - before == {layer.digest for layer in two.layers}
    await harness.pl.storage.delete_image(ME, s.DeleteImage(ref="two:1"))
    assert harness.blobs() - before == {images.digest(TAR)}
    await harness.pl.storage.delete_image(ME, s.DeleteImage(ref="plain:1"))
    assert harness.blobs() == before


async def test_an_archive_that_has_a_layer_twice_leaves_one_blob(harness: Harness) -> None:
    before = harness.blobs()
    await harness.archive(images.oci_archive(Built([TAR, TAR], "twice:1")))
    assert harness.blobs() - before == {images.digest(TAR)}


async def test_another_form_of_the_same_image_takes_the_place_of_the_first(harness: Harness) -> None:
    before = harness.blobs()
    (first,) = await harness.archive(PLAIN)
    (second,) = await harness.archive(GZIP)
    assert first.id == second.id
    assert harness.blobs() - before == {second.layers[0].digest}


async def test_what_is_kept_is_pruned_at_the_next_start_at_the_latest(harness: Harness) -> None:
    before = harness.blobs()
    await harness.archive(GZIP)
    await harness.pl.storage.delete_image(ME, s.DeleteImage(ref="gzip:1", prune=False))
    assert len(harness.blobs() - before) == 1
    await harness.crash()
    assert harness.blobs() == before


async def fetched(harness: Harness, digest: str) -> bytes:
    blob = await harness.pl.storage.get_layer(ME, s.LayerRef(digest=digest))
    body = b"".join([piece async for piece in blob])
    assert len(body) == blob.size_bytes
    return body


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
async def test_a_blob_is_given_as_it_came(harness: Harness, compression: images.Compression) -> None:
    large = images.tar([images.file("large", bytes(range(256)) * 3000)])
    (image,) = await harness.archive(images.oci_archive(Built([large], "large:1", compression=compression)))
    assert await fetched(harness, image.layers[0].digest) == images.compress(large, compression)


@pytest.mark.parametrize("digest", ["", "sha256:" + "0" * 64, "sha256:../../store.db", "latest", "sha256:"])
async def test_a_blob_that_no_image_has_is_not_found(harness: Harness, digest: str) -> None:
    with pytest.raises(NotFound) as caught:
        await fetched(harness, digest)
    assert caught.value.facts["kind"] == "layer"


async def test_a_reader_reads_on_when_the_image_goes(harness: Harness) -> None:
    (image,) = await harness.archive(PLAIN)
    blob = await harness.pl.storage.get_layer(ME, s.LayerRef(digest=image.layers[0].digest))
    await harness.pl.storage.delete_image(ME, s.DeleteImage(ref="plain:1"))
    assert b"".join([piece async for piece in blob]) == TAR
    with pytest.raises(NotFound):
        await fetched(harness, image.layers[0].digest)
