"""Reading image archives: every format and compression, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import random
import resource
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import images
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from images import Built

from portlayer.components.archives import ArchivedImage, open_layer, read_archive, read_config
from portlayer.model.errors import InvalidArgument, PortlayerError, SubstrateFailed, Unsupported

LOWER = images.tar([images.directory("etc/"), images.file("etc/motd", b"lower\n")])
UPPER = images.tar([images.file("etc/.wh.motd"), images.file("bin", b"x" * 70_000)])
IMAGE = Built([LOWER, UPPER], "localhost/two:1", {"Cmd": ["sh"], "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}})


async def read(body: bytes, staging: Path, *, size: int = 1000, **options: Any) -> list[ArchivedImage]:
    return await read_archive(images.stream(body, size), staging, **options)


async def layer_tars(image: ArchivedImage) -> list[bytes]:
    return [b"".join([piece async for piece in open_layer(layer)]) for layer in image.layers]


async def assert_reads(body: bytes, staging: Path, names: tuple[str, ...] = ("localhost/two:1",)) -> ArchivedImage:
    [image] = await read(body, staging)
    assert image.names == names
    assert image.config_bytes == IMAGE.config_bytes
    assert image.config_digest == images.digest(IMAGE.config_bytes)
    assert [layer.diff_id for layer in image.layers] == IMAGE.diff_ids
    assert await layer_tars(image) == [LOWER, UPPER]
    return image


@pytest.mark.parametrize("kind", ["auto", "rootfs"])
async def test_what_cannot_be_written_is_told_as_such(tmp_path: Path, kind: str) -> None:
    """Also where the file, which is closed then, could not take what is left of it."""
    tar = images.tar([images.file("large", b"x" * 300_000)])
    body = tar if kind == "rootfs" else images.oci_archive(Built([tar], "localhost/large:1"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(SubstrateFailed, match="cannot be written"):
            await read(body, tmp_path, format=kind, name="large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def compressed(compression: images.Compression) -> Built:
    return Built(IMAGE.layers, IMAGE.name, IMAGE.config, compression=compression)


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
@pytest.mark.parametrize("nested", [False, True])
async def test_an_oci_layout_gives_its_image(tmp_path: Path, compression: images.Compression, nested: bool) -> None:
    built = compressed(compression)
    image = await assert_reads(images.oci_archive(built, nested=nested), tmp_path)
    blob = images.compress(LOWER, compression)
    assert (image.layers[0].digest, image.layers[0].size_bytes) == (images.digest(blob), len(blob))
    assert image.layers[0].media_type.endswith(f"+{compression}" if compression else ".tar")


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
async def test_a_docker_archive_gives_its_image(tmp_path: Path, compression: images.Compression) -> None:
    image = await assert_reads(images.docker_archive(compressed(compression)), tmp_path)
    assert image.layers[0].media_type.endswith(f"+{compression}" if compression else ".tar")


@pytest.mark.parametrize("size", [7, 511, 512, 513, 100_000])
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
async def test_a_body_in_pieces_of_any_size_is_read(tmp_path: Path, size: int, compression: images.Compression) -> None:
    body = images.compress(images.oci_archive(Built([LOWER], "a:b")), compression)
    [image] = await read(body, tmp_path, size=size)
    assert await layer_tars(image) == [LOWER]


async def test_members_may_come_in_any_order(tmp_path: Path) -> None:
    members = list(images.oci_members(IMAGE).items())
    for seed in range(5):
        random.Random(seed).shuffle(members)
        staging = tmp_path / str(seed)
        staging.mkdir()
        await assert_reads(images.archive(dict(members)), staging)


async def test_concatenated_and_padded_compression_is_one_stream(tmp_path: Path) -> None:
    body = images.oci_archive(IMAGE)
    halves = body[: len(body) // 2], body[len(body) // 2 :]
    for number, whole in enumerate(
        [
            b"".join(gzip.compress(half) for half in halves) + bytes(1000),
            b"".join(zstandard.ZstdCompressor().compress(half) for half in halves),
        ]
    ):
        staging = tmp_path / str(number)
        staging.mkdir()
        await assert_reads(whole, staging)


async def test_what_docker_saves_today_has_the_names_of_its_repo_tags(tmp_path: Path) -> None:
    members = images.oci_members(IMAGE)
    index = json.loads(members["index.json"])
    index["manifests"][0]["annotations"] = {
        "io.containerd.image.name": "docker.io/library/two:1",
        "org.opencontainers.image.ref.name": "1",
    }
    members["index.json"] = images.to_json(index)
    (tmp_path / "oci").mkdir()
    await assert_reads(images.archive(members), tmp_path / "oci", ("docker.io/library/two:1",))
    config = f"blobs/sha256/{images.digest(IMAGE.config_bytes)[7:]}"
    members["manifest.json"] = images.to_json([{"Config": config, "RepoTags": ["two:1", "two:latest"], "Layers": []}])
    (tmp_path / "both").mkdir()
    await assert_reads(images.archive(members), tmp_path / "both", ("two:1", "two:latest"))


async def test_a_docker_archive_with_an_empty_index_beside_it_is_read(tmp_path: Path) -> None:
    members = images.docker_members(IMAGE)
    members |= {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b'{"schemaVersion":2,"manifests":null}'}
    await assert_reads(images.archive(members), tmp_path)


async def test_members_may_have_a_leading_slash(tmp_path: Path) -> None:
    members = images.oci_members(IMAGE)
    await assert_reads(images.archive({f"/{name}": data for name, data in members.items()}), tmp_path)


async def test_a_name_that_is_passed_stands_for_a_bad_one_in_the_archive(tmp_path: Path) -> None:
    [image] = await read(images.oci_archive(Built([LOWER], "Busybox:1")), tmp_path, name="busybox")
    assert image.names == ("busybox:latest",)


@pytest.mark.parametrize("kind", ["auto", "rootfs"])
async def test_a_bad_name_is_refused_before_the_archive_is_read(
    tmp_path: Path, kind: Literal["auto", "rootfs"]
) -> None:
    async def unread() -> AsyncIterator[bytes]:
        pytest.fail("the archive was read")
        yield b""

    with pytest.raises(InvalidArgument, match="lower case") as caught:
        await read_archive(unread(), tmp_path, name="Busybox", format=kind)
    assert caught.value.facts == {"pointer": "?name"}


async def test_layers_that_are_links_to_others_are_followed(tmp_path: Path) -> None:
    members = images.docker_members(Built([LOWER, LOWER], "twice"))
    manifest = json.loads(members["manifest.json"])
    layer = manifest[0]["Layers"][0]
    manifest[0]["Layers"] = ["first/layer.tar", "second/layer.tar"]
    members["manifest.json"] = images.to_json(manifest)
    entries = [
        images.symlink("first/layer.tar", f"../{layer}"),
        images.hard_link("second/layer.tar", layer),
        *(images.file(name, data) for name, data in members.items()),
    ]
    [image] = await read(images.tar(entries), tmp_path)
    assert await layer_tars(image) == [LOWER, LOWER]


async def test_several_images_come_each_once_with_all_their_names(tmp_path: Path) -> None:
    other = Built([UPPER], "other:2")
    body = images.docker_archive(IMAGE, other, Built(IMAGE.layers, "two:again", IMAGE.config))
    first, second = await read(body, tmp_path)
    assert first.names == ("localhost/two:1", "two:again")
    assert second.names == ("other:2",)
    (tmp_path / "again").mkdir()
    with pytest.raises(InvalidArgument, match="2 images"):
        await read(body, tmp_path / "again", name="one")


async def test_a_name_overrides_and_an_image_may_have_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    [image] = await read(images.oci_archive(IMAGE), tmp_path / "a", name="mine")
    assert image.names == ("mine:latest",)
    (tmp_path / "b").mkdir()
    [image] = await read(images.oci_archive(Built([LOWER])), tmp_path / "b")
    assert image.names == ()


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
async def test_a_rootfs_is_one_layer_and_always_the_same_image(tmp_path: Path, compression: images.Compression) -> None:
    ids = set()
    for attempt in ("a", "b"):
        staging = tmp_path / attempt
        staging.mkdir()
        body = images.compress(LOWER, compression)
        [image] = await read(body, staging, name="root", format="rootfs")
        assert image.names == ("root:latest",)
        assert await layer_tars(image) == [LOWER]
        config = read_config(image.config_bytes)
        assert config.diff_ids == (images.digest(LOWER),)
        assert (config.os, config.architecture) == ("linux", images.ARCHITECTURE)
        ids.add(image.config_digest)
    assert len(ids) == 1


def test_a_configuration_says_how_to_run_the_image() -> None:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "history": [{"comment": "unknown fields are passed over"}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
        "config": {
            "Entrypoint": ["/init"],
            "Cmd": None,
            "Env": ["A=b"],
            "WorkingDir": "/srv",
            "User": "1000:1000",
            "Labels": {"k": "v"},
            "ExposedPorts": {"80/tcp": {}},
            "Volumes": {"/data": {}},
            "StopSignal": "SIGQUIT",
        },
    }
    file = read_config(images.to_json(document))
    assert file.created == "2026-01-01T00:00:00Z"
    assert (file.config.entrypoint, file.config.cmd, file.config.env) == (("/init",), (), ("A=b",))
    assert (file.config.working_dir, file.config.user, file.config.stop_signal) == ("/srv", "1000:1000", "SIGQUIT")
    assert (file.config.labels, file.config.exposed_ports, file.config.volumes) == (
        {"k": "v"},
        ("80/tcp",),
        ("/data",),
    )


def edited(members: dict[str, bytes], name: str, change: Any) -> bytes:
    """An archive in which the JSON document *name* is changed in place by *change*."""
    document = json.loads(members[name])
    change(document)
    return images.archive(members | {name: images.to_json(document)})


OCI_MEMBERS = images.oci_members(IMAGE)
DOCKER_MEMBERS = images.docker_members(IMAGE)
LAYER_BLOB = f"blobs/sha256/{images.digest(LOWER)[7:]}"
CONFIG_BLOB = f"blobs/sha256/{images.digest(IMAGE.config_bytes)[7:]}"


def without(members: dict[str, bytes], name: str) -> bytes:
    return images.archive({key: value for key, value in members.items() if key != name})


def manifest_of(members: dict[str, bytes]) -> dict[str, Any]:
    index = json.loads(members["index.json"])
    found: dict[str, Any] = json.loads(members[f"blobs/sha256/{index['manifests'][0]['digest'][7:]}"])
    return found


def with_manifest(**changes: Any) -> bytes:
    """The OCI archive with another manifest, correctly referred to."""
    manifest = images.to_json(manifest_of(OCI_MEMBERS) | changes)
    top = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": images.digest(manifest),
        "size": len(manifest),
    }
    return images.archive(
        OCI_MEMBERS
        | {f"blobs/sha256/{images.digest(manifest)[7:]}": manifest}
        | {"index.json": images.to_json({"manifests": [top]})}
    )


def foreign_index() -> bytes:
    def change(index: dict[str, Any]) -> None:
        index["manifests"][0]["platform"] = {"architecture": "s390x", "os": "linux"}

    return edited(OCI_MEMBERS, "index.json", change)


def huge_index() -> bytes:
    return images.archive(OCI_MEMBERS | {"index.json": b" " * (8 << 20) + OCI_MEMBERS["index.json"]})


def layers_of(manifest: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    return [layer | changes for layer in manifest["layers"]]


OCI = images.oci_archive(IMAGE)
WHOLE = manifest_of(OCI_MEMBERS)
REFUSED: dict[str, tuple[bytes, type[PortlayerError], str]] = {
    "empty": (b"", InvalidArgument, "empty"),
    "three bytes": (b"abc", InvalidArgument, "truncated|no tar|empty"),
    "text": (b"hello, world\n" * 100, InvalidArgument, "no tar"),
    "truncated": (OCI[: len(OCI) // 2], InvalidArgument, "truncated"),
    "cut between members": (OCI[: OCI.index(b"index.json")], InvalidArgument, "truncated"),
    "truncated gzip": (gzip.compress(OCI)[:-20], InvalidArgument, "truncated"),
    "truncated zstd": (images.compress(OCI, "zstd")[:-20], InvalidArgument, "truncated"),
    "corrupt gzip": (b"\x1f\x8b\x08\x00" + b"\xff" * 500, InvalidArgument, "corrupt"),
    "corrupt zstd": (b"\x28\xb5\x2f\xfd" + b"\xff" * 500, InvalidArgument, "corrupt"),
    "junk after gzip": (gzip.compress(OCI) + b"junk" * 10, InvalidArgument, "corrupt"),
    "rootfs": (LOWER, InvalidArgument, "format=rootfs"),
    "no index": (without(OCI_MEMBERS, "index.json"), InvalidArgument, "lacks index.json"),
    "no config": (without(OCI_MEMBERS, CONFIG_BLOB), InvalidArgument, "lacks the config"),
    "no layer": (without(OCI_MEMBERS, LAYER_BLOB), InvalidArgument, "lacks the layer"),
    "no docker layer": (
        without(DOCKER_MEMBERS, f"{images.digest(LOWER)[7:]}/layer.tar"),
        InvalidArgument,
        "lacks the layer",
    ),
    "other bytes in a blob": (images.archive(OCI_MEMBERS | {LAYER_BLOB: UPPER}), InvalidArgument, "digest"),
    "other bytes in a docker config": (
        images.archive(DOCKER_MEMBERS | {f"{images.digest(IMAGE.config_bytes)[7:]}.json": b"{}"}),
        InvalidArgument,
        "digest",
    ),
    "index is no JSON": (images.archive(OCI_MEMBERS | {"index.json": b'{"manifests": ['}), InvalidArgument, "parse"),
    "index is another JSON": (images.archive(OCI_MEMBERS | {"index.json": b"[1]"}), InvalidArgument, "parse"),
    "deep JSON": (images.archive(OCI_MEMBERS | {"index.json": b'{"x":' + b"[" * 10**6}), InvalidArgument, "parse"),
    "manifest.json is no JSON": (images.archive({"manifest.json": b"\xff\xfe"}), InvalidArgument, "parse"),
    "huge index": (huge_index(), InvalidArgument, "is the most"),
    "no image": (images.archive(OCI_MEMBERS | {"index.json": b'{"manifests":[]}'}), InvalidArgument, "no image"),
    "another platform": (foreign_index(), InvalidArgument, "linux/s390x"),
    "no layers": (images.oci_archive(Built([], "none")), InvalidArgument, "no layers"),
    "docker without layers": (images.docker_archive(Built([], "none")), InvalidArgument, "no layers"),
    "too few layers": (with_manifest(layers=WHOLE["layers"][:1]), InvalidArgument, "lists 2"),
    "wrong size": (with_manifest(layers=layers_of(WHOLE, size=1)), InvalidArgument, "corrupt"),
    "unknown layer type": (with_manifest(layers=layers_of(WHOLE, mediaType="text/x")), Unsupported, "text/x"),
    "no image config": (
        with_manifest(config=WHOLE["config"] | {"mediaType": "application/x.sig"}),
        Unsupported,
        "x.sig",
    ),
    "sha512": (with_manifest(layers=layers_of(WHOLE, digest="sha512:" + "0" * 128)), Unsupported, "sha256"),
    "too many layers": (images.oci_archive(Built([LOWER] * 128, "many")), Unsupported, "128 layers"),
    "escaping name": (images.tar([images.file("../index.json")]), InvalidArgument, "outside"),
    "escaping absolute name": (images.tar([images.file("/../index.json")]), InvalidArgument, "outside"),
    "escaping hard link": (images.tar([images.hard_link("index.json", "../../x")]), InvalidArgument, "outside"),
    "a loop of links": (
        images.tar([images.symlink("manifest.json", "oci-layout"), images.symlink("oci-layout", "manifest.json")]),
        InvalidArgument,
        "format=rootfs",
    ),
    "link to the host": (
        images.tar([images.symlink("manifest.json", "/etc/passwd")]),
        InvalidArgument,
        "format=rootfs",
    ),
    "bad name": (images.oci_archive(Built([LOWER], "no name at all")), InvalidArgument, "no image name"),
    "name with upper case": (images.oci_archive(Built([LOWER], "Busybox:1")), InvalidArgument, "lower case"),
    "many members": (images.tar([images.directory("d")])[:512] * 10_001, InvalidArgument, "members"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_cannot_be_an_image_is_refused_with_its_reason(tmp_path: Path, case: str) -> None:
    body, error, reason = REFUSED[case]
    with pytest.raises(error, match=reason):
        await read(body, tmp_path, size=64 << 10)


@pytest.mark.parametrize("body", [b"", b"text" * 500, LOWER[:700], LOWER[:1024]])
async def test_a_rootfs_that_is_no_whole_tar_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        await read(body, tmp_path, name="root", format="rootfs")


async def test_a_rootfs_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="pass name"):
        await read(LOWER, tmp_path, format="rootfs")


@pytest.mark.parametrize(("wanted", "other"), [("docker", OCI), ("oci", images.docker_archive(IMAGE))])
async def test_a_format_that_is_asked_for_must_be_there(tmp_path: Path, wanted: str, other: bytes) -> None:
    with pytest.raises(InvalidArgument, match="lacks"):
        await read(other, tmp_path, format=wanted)


async def test_a_corrupt_layer_is_refused_as_it_is_opened(tmp_path: Path) -> None:
    for number, blob in enumerate([gzip.compress(LOWER)[:-9], b"\x28\xb5\x2f\xfd" + b"\xff" * 300]):
        staging = tmp_path / str(number)
        staging.mkdir()
        manifest = [{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["layer.tar"]}]
        config = Built([LOWER]).config_bytes
        members = {"config.json": config, "layer.tar": blob, "manifest.json": images.to_json(manifest)}
        [image] = await read(images.archive(members), staging)
        with pytest.raises(InvalidArgument, match="corrupt"):
            await layer_tars(image)


async def test_a_bomb_passes_through_in_small_pieces(tmp_path: Path) -> None:
    """A gigabyte of zeros in 32 KiB of zstd never sits in memory, nor in one piece."""
    frame = zstandard.ZstdCompressor(level=19).compress(bytes(64 << 20))
    manifest = [{"Config": "config.json", "RepoTags": ["a:b"], "Layers": ["layer.tar"]}]
    members = {
        "layer.tar": frame * 16,
        "config.json": Built([LOWER]).config_bytes,
        "manifest.json": images.to_json(manifest),
    }
    [image] = await read(images.archive(members), tmp_path)
    sizes = [len(piece) async for piece in open_layer(image.layers[0])]
    assert sum(sizes) == 1 << 30
    assert max(sizes) <= 1 << 20


async def test_a_claimed_size_allocates_nothing(tmp_path: Path) -> None:
    info = tarfile.TarInfo("oci-layout")
    info.size = 1 << 60
    with pytest.raises(InvalidArgument, match="truncated"):
        await read(info.tobuf(tarfile.GNU_FORMAT) + bytes(512), tmp_path)


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
async def test_what_skopeo_writes_is_read(tmp_path: Path, transport: str) -> None:
    source, result, staging = tmp_path / "source.tar", tmp_path / "result.tar", tmp_path / "staging"
    source.write_bytes(images.oci_archive(IMAGE))
    staging.mkdir()
    to = f"{transport}:{result}:localhost/two:1"
    command = ["skopeo", "copy", "--insecure-policy", "--quiet", f"oci-archive:{source}:{IMAGE.name}", to]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=60)
    [image] = await read(result.read_bytes(), staging)
    assert image.names == ("localhost/two:1",)
    assert [hashlib.sha256(tar).hexdigest() for tar in await layer_tars(image)] == [d[7:] for d in IMAGE.diff_ids]


SMALL = [
    images.oci_archive(Built([images.tar([images.file("f", b"data")])], "a:b"), nested=True),
    images.docker_archive(Built([images.tar([images.file("f", b"data")])], "a:b")),
]
SMALL += [gzip.compress(SMALL[0]), images.compress(SMALL[1], "zstd")]


@settings(max_examples=150)
@given(data=st.data())
async def test_a_damaged_archive_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(SMALL)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        body[at : at + len(piece)] = piece
    body = body[: data.draw(st.sampled_from([len(body), data.draw(st.integers(0, len(body)))]))]
    with TemporaryDirectory() as staging, contextlib.suppress(PortlayerError):
        for image in await read(bytes(body), Path(staging)):
            await layer_tars(image)
