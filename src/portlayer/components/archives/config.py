"""JSON of archives: bounded, typed, and refused by name where it does not parse; and the image configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from portlayer.components.archives.values import Blob
from portlayer.model.errors import InvalidArgument, Unsupported
from portlayer.model.storage import ImageConfig

MAX_JSON = 8 << 20
"""Bytes. The OCI distribution spec asks registries for 4 MiB of manifest."""

T = TypeVar("T")


def load(blob: Blob, kind: type[T], what: str) -> T:
    """The JSON document in *blob*; fields that *kind* does not know are passed over, as the specifications ask."""
    return decode(read(blob, what), kind, what)


def read(blob: Blob, what: str) -> bytes:
    """The bytes of a document."""
    if blob.size_bytes > MAX_JSON:
        raise InvalidArgument(f"The {what} of the archive has {blob.size_bytes} bytes; {MAX_JSON} is the most.")
    return blob.path.read_bytes()


def decode(data: bytes, kind: type[T], what: str) -> T:
    """*data* as *kind*; raises InvalidArgument with the place of the fault."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"The {what} of the archive does not parse: {error}.") from error


@dataclass(frozen=True)
class ConfigFile:
    """An image configuration. diff_ids go from the lowest layer up; created is RFC 3339, or empty."""

    architecture: str
    os: str
    created: str
    diff_ids: tuple[str, ...]
    config: ImageConfig


def read_config(config_bytes: bytes) -> ConfigFile:
    """Parse an OCI or Docker image configuration.

    Raises:
        InvalidArgument: it does not parse, or has no diffIDs.
        Unsupported: it is for another operating system than Linux.
    """
    file = decode(config_bytes, _File, "image configuration")
    if file.os not in {"", "linux"}:
        raise Unsupported(f"The image is for {file.os!r}; images for linux run here.", option="os")
    if file.rootfs is None:
        raise InvalidArgument("The image configuration of the archive has no rootfs with the diffIDs of its layers.")
    run = file.config or _Run()
    return ConfigFile(
        architecture=file.architecture,
        os=file.os or "linux",
        created=file.created or "",
        diff_ids=tuple(file.rootfs.diff_ids or ()),
        config=ImageConfig(
            entrypoint=tuple(run.entrypoint or ()),
            cmd=tuple(run.cmd or ()),
            env=tuple(run.env or ()),
            working_dir=run.working_dir or "",
            user=run.user or "",
            labels=run.labels or {},
            exposed_ports=tuple(run.exposed_ports or ()),
            volumes=tuple(run.volumes or ()),
            stop_signal=run.stop_signal or "",
        ),
    )


class _Run(msgspec.Struct, rename="pascal"):
    """Null stands for absent everywhere: Go writes its empty lists so."""

    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    working_dir: str | None = None
    user: str | None = None
    labels: dict[str, str] | None = None
    exposed_ports: dict[str, Any] | None = None
    volumes: dict[str, Any] | None = None
    stop_signal: str | None = None


class _Rootfs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _File(msgspec.Struct):
    architecture: str = ""
    os: str = ""
    created: str | None = None
    config: _Run | None = None
    rootfs: _Rootfs | None = None
