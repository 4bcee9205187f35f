"""What an archive turned out to hold."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURE = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "i686": "386",
}.get(platform.machine(), platform.machine())
"""This host's, as OCI (and Go) call it; the other names are the same."""

LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True)
class ArchivedLayer:
    """A layer's blob on disk. digest, size_bytes: of the blob. diff_id: what the config promises of its tar."""

    path: Path
    digest: str
    diff_id: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True)
class ArchivedImage:
    """An image of an archive. names: complete, with tags; none for an image without. Layers go from the lowest up."""

    names: tuple[str, ...]
    config_bytes: bytes
    config_digest: str
    layers: tuple[ArchivedLayer, ...]


@dataclass(frozen=True)
class Blob:
    """A file of the archive on disk. digest: `sha256:<hex>` of its bytes, computed."""

    path: Path
    digest: str
    size_bytes: int
