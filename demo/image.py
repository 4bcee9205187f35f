"""A small real image: Debian's static busybox as a docker-archive."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

NAME = "busybox:latest"
BUSYBOX = Path("/bin/busybox")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def build(name: str = NAME) -> bytes:
    """The image as `docker save` would write it: one layer, a configuration, a manifest."""
    layer = _tar(_rootfs())
    config = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    files = (("config.json", config), ("layer.tar", layer), ("manifest.json", manifest))
    return _tar((tarfile.TarInfo(path), content) for path, content in files)


def _rootfs() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for path in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        yield _entry(path, tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755), b""
    yield _entry("bin/busybox", tarfile.REGTYPE, 0o755), BUSYBOX.read_bytes()
    for applet in _applets():
        yield _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777, target="busybox"), b""


def _applets() -> Sequence[str]:
    listed = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True)
    return [applet for applet in listed.stdout.split() if applet != "busybox"]


def _entry(path: str, kind: bytes, mode: int, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.linkname = kind, mode, target
    return entry


def _tar(entries: Iterator[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
