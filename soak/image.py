"""Images for the soak: Debian's busybox, and on it a layer of each image's own."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import platform
import tarfile

from bench.image import ARCHITECTURES, layer

NAME = "soak:latest"
_base = functools.cache(layer)


def build(name: str, motto: str) -> bytes:
    """A docker-archive called *name*, with *motto* in /etc/motto."""
    layers = {"base.tar": _base(), "own.tar": _tar({"etc/motto": motto.encode()})}
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers.values()],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": list(layers)}]
    return _tar({"config.json": json.dumps(config).encode(), **layers, "manifest.json": json.dumps(manifest).encode()})


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
