"""Image archives for tests and the demo: rootfs tars, OCI layout tars and docker-archives, deterministic.

rootfs = images.busybox_rootfs()
archive = images.oci_archive(images.Built([rootfs], name="busybox:latest", config={"Cmd": ["sh"]}))
body = images.stream(archive)
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import zstandard

BUSYBOX = Path("/bin/busybox")
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OCI = "application/vnd.oci.image"
Compression = Literal["", "gzip", "zstd"]


@dataclass(frozen=True)
class Entry:
    """One entry of a tar. kind is a type of `tarfile`; xattrs are written as SCHILY.xattr records."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 1_700_000_000
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, str] = field(default_factory=dict)


def file(name: str, data: bytes = b"", **fields: Any) -> Entry:
    return Entry(name, data, **fields)


def directory(name: str, *, mode: int = 0o755, **fields: Any) -> Entry:
    return Entry(name, kind=tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str, **fields: Any) -> Entry:
    return Entry(name, kind=tarfile.SYMTYPE, target=target, mode=0o777, **fields)


def hard_link(name: str, target: str, **fields: Any) -> Entry:
    return Entry(name, kind=tarfile.LNKTYPE, target=target, **fields)


def tar(entries: Iterable[Entry]) -> bytes:
    """An uncompressed pax tar of *entries*, in their order, names exactly as given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname, info.mode = entry.kind, entry.target, entry.mode
            info.uid, info.gid, info.mtime = entry.uid, entry.gid, entry.mtime
            info.devmajor, info.devminor = entry.device
            info.size = len(entry.data)
            info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in entry.xattrs.items()}
            archive.addfile(info, io.BytesIO(entry.data))
    return buffer.getvalue()


def busybox_rootfs(extra: Sequence[Entry] = ()) -> bytes:
    """A small root filesystem around Debian's static busybox, with all its applets as symlinks in /bin."""
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    applets = [name for name in listed.stdout.split() if name != "busybox"]
    directories = ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "var")
    return tar(
        [
            *(directory(f"{name}/") for name in directories),
            directory("tmp/", mode=0o1777),
            file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
            *(symlink(f"bin/{name}", "busybox") for name in applets),
            file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"),
            file("etc/group", b"root:x:0:\nnogroup:x:65534:\n"),
            *extra,
        ]
    )


@dataclass(frozen=True)
class Built:
    """An image to archive: uncompressed layer tars from the lowest up, a name, and the config's `config`."""

    layers: Sequence[bytes]
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    architecture: str = ARCHITECTURE
    compression: Compression = ""

    @property
    def diff_ids(self) -> list[str]:
        """Digests of the uncompressed layers."""
        return [digest(layer) for layer in self.layers]

    @property
    def config_bytes(self) -> bytes:
        """The OCI image configuration."""
        return to_json(
            {
                "architecture": self.architecture,
                "os": "linux",
                "config": self.config,
                "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            }
        )


def busybox_image(name: str = "busybox:latest", **config: Any) -> bytes:
    """An OCI layout tar of `busybox_rootfs`; config defaults to running `sh`."""
    return oci_archive(Built([busybox_rootfs()], name, config or {"Cmd": ["sh"], "Env": ["PATH=/bin"]}))


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def to_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def compress(data: bytes, compression: Compression) -> bytes:
    match compression:
        case "gzip":
            return gzip.compress(data, 1, mtime=0)
        case "zstd":
            return zstandard.ZstdCompressor().compress(data)
    return data


def oci_members(image: Built, *, nested: bool = False) -> dict[str, bytes]:
    """The members of an OCI layout of *image*; nested puts its manifest behind an index of two platforms."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        blobs[f"blobs/sha256/{digest(data)[7:]}"] = data
        return {"mediaType": f"{OCI}.{media_type}", "digest": digest(data), "size": len(data), **more}

    suffix = f"+{image.compression}" if image.compression else ""
    layers = [blob(compress(layer, image.compression), f"layer.v1.tar{suffix}") for layer in image.layers]
    config = blob(image.config_bytes, "config.v1+json")
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": layers}
    top = blob(to_json(manifest), "manifest.v1+json")
    if nested:
        top["platform"] = {"architecture": image.architecture, "os": "linux"}
        absent = {
            "mediaType": f"{OCI}.manifest.v1+json",
            "digest": digest(b"absent"),
            "size": 6,
            "platform": {"architecture": "s390x", "os": "linux"},
        }
        top = blob(to_json({"schemaVersion": 2, "manifests": [absent, top]}), "index.v1+json")
    if image.name:
        top["annotations"] = {"org.opencontainers.image.ref.name": image.name}
    return {
        "oci-layout": to_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": to_json({"schemaVersion": 2, "manifests": [top]}),
        **blobs,
    }


def docker_members(*images: Built) -> dict[str, bytes]:
    """The members of a docker-archive of *images*."""
    members: dict[str, bytes] = {}
    manifest = []
    for image in images:
        layers = {f"{digest(layer)[7:]}/layer.tar": compress(layer, image.compression) for layer in image.layers}
        config = f"{digest(image.config_bytes)[7:]}.json"
        members |= {**layers, config: image.config_bytes}
        manifest.append({"Config": config, "RepoTags": [image.name] if image.name else None, "Layers": list(layers)})
    return {**members, "manifest.json": to_json(manifest)}


def archive(members: dict[str, bytes]) -> bytes:
    """A tar of plain files."""
    return tar(file(name, data) for name, data in members.items())


def oci_archive(image: Built, *, nested: bool = False) -> bytes:
    """An OCI image layout as a tar."""
    return archive(oci_members(image, nested=nested))


def docker_archive(*images: Built) -> bytes:
    """What `docker save` wrote before it wrote OCI layouts."""
    return archive(docker_members(*images))


async def stream(data: bytes, size: int = 64 << 10) -> AsyncIterator[bytes]:
    """*data* in pieces of *size* bytes, as a request body comes in."""
    for start in range(0, len(data), size):
        yield data[start : start + size]
