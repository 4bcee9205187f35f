"""OCI image layouts. Of an index of several platforms, the image for this host is taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from portlayer.components.archives.assembly import assemble
from portlayer.components.archives.config import load, read
from portlayer.components.archives.spool import Contents
from portlayer.components.archives.values import ARCHITECTURE, LAYER_TAR, ArchivedImage, Blob
from portlayer.model.errors import InvalidArgument, Unsupported

LAYOUT = "oci-layout"
INDEX = "index.json"

_OCI = "application/vnd.oci.image"
_DOCKER = "application/vnd.docker"
_INDEXES = {f"{_OCI}.index.v1+json", f"{_DOCKER}.distribution.manifest.list.v2+json"}
_MANIFESTS = {f"{_OCI}.manifest.v1+json", f"{_DOCKER}.distribution.manifest.v2+json"}
_CONFIGS = {f"{_OCI}.config.v1+json", f"{_DOCKER}.container.image.v1+json"}
_LAYERS = {
    *(f"{LAYER_TAR}{suffix}" for suffix in ("", "+gzip", "+zstd")),
    *(f"{_OCI}.layer.nondistributable.v1.tar{suffix}" for suffix in ("", "+gzip", "+zstd")),
    *(f"{_DOCKER}.image.rootfs.diff.tar{suffix}" for suffix in ("", ".gzip", ".zstd")),
    f"{_DOCKER}.image.rootfs.foreign.diff.tar.gzip",
}
_MAX_NESTING = 4
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_ATTESTATION = "vnd.docker.reference.type"


class _Platform(msgspec.Struct):
    architecture: str = ""
    os: str = ""


class _Descriptor(msgspec.Struct, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct):
    manifests: list[_Descriptor] | None = None


class _Manifest(msgspec.Struct):
    config: _Descriptor
    layers: list[_Descriptor] | None = None


class _Layout(msgspec.Struct, rename="camel"):
    image_layout_version: str


def read_oci(contents: Contents) -> list[ArchivedImage]:
    """The images of an OCI layout, each once, with the raw names of its annotations; none where the index is empty."""
    version = load(_file(contents, LAYOUT), _Layout, LAYOUT).image_layout_version
    if not version.startswith("1."):
        raise Unsupported(f"The archive has OCI layout version {version!r}; 1.0.0 is read here.", option="oci-layout")
    index = load(_file(contents, INDEX), _Index, INDEX)
    return [
        _image(contents, manifest, _names(descriptor))
        for descriptor in _choose(index.manifests or (), every=True)
        for manifest in _manifests(contents, descriptor, 0)
    ]


def _file(contents: Contents, name: str) -> Blob:
    blob = contents.get(name)
    if blob is None:
        raise InvalidArgument(f"The archive is no OCI image layout: it lacks {name}.")
    return blob


def _names(descriptor: _Descriptor) -> tuple[str, ...]:
    annotations = descriptor.annotations or {}
    found = [annotations[key] for key in _NAMES if annotations.get(key)]
    return tuple(found[:1])


def _choose(descriptors: Sequence[_Descriptor], *, every: bool) -> list[_Descriptor]:
    """Those for this host, without the attestations that build tools add; the first alone, unless *every*."""
    images = [one for one in descriptors if _ATTESTATION not in (one.annotations or {})]
    fitting = [one for one in images if one.platform is None or _fits(one.platform)]
    if images and not fitting:
        there = ", ".join(sorted({f"{one.platform.os}/{one.platform.architecture}" for one in images if one.platform}))
        raise InvalidArgument(f"The archive has no image for linux/{ARCHITECTURE}; it has {there}.")
    return fitting if every else fitting[:1]


def _fits(platform: _Platform) -> bool:
    return platform.os == "linux" and platform.architecture == ARCHITECTURE


def _manifests(contents: Contents, descriptor: _Descriptor, depth: int) -> Iterator[_Manifest]:
    if descriptor.media_type in _MANIFESTS:
        yield load(_blob(contents, descriptor, "manifest"), _Manifest, f"manifest {descriptor.digest}")
    elif descriptor.media_type not in _INDEXES:
        raise Unsupported(
            f"The archive holds a {descriptor.media_type!r}, which is no container image.", option="mediaType"
        )
    elif depth == _MAX_NESTING:
        raise InvalidArgument(f"The archive nests indexes deeper than {_MAX_NESTING}.")
    else:
        index = load(_blob(contents, descriptor, "index"), _Index, f"index {descriptor.digest}")
        for chosen in _choose(index.manifests or (), every=False):
            yield from _manifests(contents, chosen, depth + 1)


def _blob(contents: Contents, descriptor: _Descriptor, what: str) -> Blob:
    """The blob of a descriptor, of its size; that its digest is that of its name was checked as it came in."""
    algorithm, _, digits = descriptor.digest.partition(":")
    if algorithm != "sha256":
        raise Unsupported(f"The digest {descriptor.digest[:100]!r} is no sha256, which is read here.", option="digest")
    blob = contents.get(f"blobs/sha256/{digits}")
    if blob is None:
        raise InvalidArgument(f"The archive lacks the {what} {descriptor.digest}; export it again, complete.")
    if (blob.digest, blob.size_bytes) != (descriptor.digest, descriptor.size):
        raise InvalidArgument(
            f"The {what} {descriptor.digest} is {blob.digest} of {blob.size_bytes} bytes, not of {descriptor.size}; "
            "the archive is corrupt."
        )
    return blob


def _image(contents: Contents, manifest: _Manifest, names: tuple[str, ...]) -> ArchivedImage:
    if manifest.config.media_type not in _CONFIGS:
        raise Unsupported(
            f"The archive holds a {manifest.config.media_type!r}, which is no container image.", option="mediaType"
        )
    layers = []
    for layer in manifest.layers or ():
        if layer.media_type not in _LAYERS:
            raise Unsupported(f"A layer is {layer.media_type!r}, which is not read here.", option="mediaType")
        layers.append((_blob(contents, layer, "layer"), layer.media_type))
    config = read(_blob(contents, manifest.config, "config"), "image configuration")
    return assemble(config, layers, names)
