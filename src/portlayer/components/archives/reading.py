"""From the bytes of an archive to the images in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from portlayer.components.archives.assembly import assemble
from portlayer.components.archives.docker import MANIFEST, read_docker, repo_tags
from portlayer.components.archives.oci import LAYOUT, read_oci
from portlayer.components.archives.spool import ArchiveSpool, Contents, RootfsSpool, Spool
from portlayer.components.archives.values import ARCHITECTURE, LAYER_TAR, ArchivedImage, Blob
from portlayer.model.errors import InvalidArgument
from portlayer.model.names import check_image_name
from portlayer.pump import pump

Format = Literal["auto", "oci", "docker", "rootfs"]
T = TypeVar("T")


async def read_archive(
    body: AsyncIterator[bytes],
    staging: Path,
    *,
    name: str | None = None,
    format: Format = "auto",  # noqa: A002 - the name of the API's own parameter
    staged: Callable[[int], None] = lambda _: None,
) -> list[ArchivedImage]:
    """Write an archive to *staging* as it streams in, then find the images in it.

    Args:
        body: the archive, plain or compressed with gzip or zstd, in pieces of any size.
        staging: an empty directory; the caller removes it with all in it once the layers are used, or on failure.
        name: overrides the names in the archive, which must hold one image then; a rootfs needs it.
        format: auto tells oci and docker apart by content.
        staged: is told, in a thread, how many bytes are about to be in *staging*; what it raises ends it.
    Raises:
        InvalidArgument: no such archive, corrupt, truncated, incomplete, or inconsistent; the reason is in the detail.
        Unsupported: what is in it is no image that could run here.
        ResourceExhausted: the disk is full.
    """
    if name is not None:
        name = check_image_name(name, "?name")
    if format == "rootfs":
        if name is None:
            raise InvalidArgument("A root filesystem says no name for its image; pass name.", pointer="?name")
        tar = await _spool(RootfsSpool(staging, staged), body)
        return [_of_rootfs(tar, name)]
    contents = await _spool(ArchiveSpool(staging, staged), body)
    return await asyncio.to_thread(_images, contents, name, format)


async def _spool(spool: Spool[T], body: AsyncIterator[bytes]) -> T:
    try:
        await pump(body, spool.feed)
        return await asyncio.to_thread(spool.finish)
    finally:
        await asyncio.shield(asyncio.to_thread(spool.close))


def _images(contents: Contents, name: str | None, format: Format) -> list[ArchivedImage]:  # noqa: A002
    found = _read(contents, format)
    images = _merge(found if name is None else [replace(image, names=()) for image in found])
    if not images:
        raise InvalidArgument("The archive holds no image.")
    if name is None:
        return images
    if len(images) > 1:
        raise InvalidArgument(
            f"The archive holds {len(images)} images, so one name does not fit; leave it out.", pointer="?name"
        )
    return [replace(images[0], names=(name,))]


def _read(contents: Contents, format: Format) -> list[ArchivedImage]:  # noqa: A002
    is_oci, is_docker = contents.get(LAYOUT) is not None, contents.get(MANIFEST) is not None
    if format == "docker" or (format == "auto" and not is_oci and is_docker):
        return read_docker(contents)
    if format == "auto" and not is_oci:
        raise InvalidArgument(
            f"The archive has neither {LAYOUT} nor {MANIFEST}, so it is no image archive; "
            "pass format=rootfs where it is a root filesystem.",
            pointer="?format",
        )
    images = read_oci(contents)
    if not is_docker:
        return images
    # Docker writes both; some of its versions leave the index empty, and names are whole in its own file alone.
    tags = repo_tags(contents)
    return [replace(image, names=tags.get(image.config_digest, image.names)) for image in images] or (
        read_docker(contents) if format == "auto" else []
    )


def _merge(images: list[ArchivedImage]) -> list[ArchivedImage]:
    """Each image once, with all of its names."""
    merged: dict[str, ArchivedImage] = {}
    for image in images:
        names = tuple(_archived_name(name) for name in image.names)
        before = merged[image.config_digest].names if image.config_digest in merged else ()
        merged[image.config_digest] = replace(image, names=tuple(dict.fromkeys((*before, *names))))
    return list(merged.values())


def _archived_name(name: str) -> str:
    try:
        return check_image_name(name)
    except InvalidArgument as error:
        raise InvalidArgument(f"In the archive, {error.detail} Pass another name.", pointer="?name") from error


def _of_rootfs(tar: Blob, name: str) -> ArchivedImage:
    """The configuration has no times, so the same tar gives the same image."""
    document = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [tar.digest]},
    }
    return assemble(msgspec.json.encode(document), [(tar, LAYER_TAR)], (name,))
