"""The image that every peer runs: Debian's static busybox with its applets, one layer."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

NAME = "docker.io/library/busybox:latest"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
BUSYBOX = Path("/bin/busybox")
DIRECTORIES = ("bin", "dev", "etc", "proc", "run", "sys", "tmp")
MOUNTPOINTS = ("etc/hostname", "etc/hosts", "etc/resolv.conf")


def layer() -> bytes:
    """The root filesystem as a plain tar."""
    applets = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in DIRECTORIES:
            _add(tar, name, kind=tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        for name in MOUNTPOINTS:
            _add(tar, name, mode=0o644)
        _add(tar, "bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
        for name in applets:
            if name != "busybox":
                _add(tar, f"bin/{name}", kind=tarfile.SYMTYPE, target="busybox", mode=0o777)
    return out.getvalue()


def archive(content: bytes) -> bytes:
    """A docker-archive with *content* as its one layer."""
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }
    encoded = json.dumps(config).encode()
    name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, name, encoded)
        _add(tar, "layer.tar", content)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return out.getvalue()


def unpack(content: bytes, directory: Path) -> None:
    """Unpack the layer, for runtimes that take a directory."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(directory, filter="fully_trusted")


def _add(
    tar: tarfile.TarFile,
    name: str,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
    mode: int = 0o644,
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode, entry.size = kind, target, mode, len(content)
    tar.addfile(entry, io.BytesIO(content))
