"""Images, layers and volumes: entities, requests and answers."""

from __future__ import annotations

from typing import Literal

from portlayer.model.base import Value


class Layer(Value):
    """One layer of an image. `digest` and `size_bytes` are of the blob as uploaded, `diff_id` and `unpacked_bytes` of
    its uncompressed tar.
    """

    digest: str
    diff_id: str
    size_bytes: int
    unpacked_bytes: int = 0
    media_type: str


class ImageConfig(Value, omit_defaults=False):
    """What an image says of how to run it (OCI image spec, `config`)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = {}
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""


class Image(Value):
    """An image of a VCH. `id` is the hex of its config's sha256; `layers` go from the lowest up."""

    id: str
    digest: str
    names: tuple[str, ...]
    architecture: str
    os: str
    layers: tuple[Layer, ...]
    config: ImageConfig
    size_bytes: int
    created_at: str


class ListImages(Value):
    name: str | None = None
    label: tuple[str, ...] = ()
    limit: int = 100
    after: str | None = None


class Images(Value):
    images: tuple[Image, ...]
    next: str | None


class ImageRef(Value):
    ref: str


class LayerRef(Value):
    """`digest` is of the blob, as an image's layers say it; `offset` leaves out its first bytes, to go on where a
    stream broke off."""

    digest: str
    offset: int = 0


class DeleteImage(Value):
    """A name takes that name away, and the image with its last one; an id takes the image with all its names.

    prune: also remove the layers that no image uses any more. Default true.
    """

    ref: str
    prune: bool = True


class ImportImage(Value):
    """`name` overrides the names in the archive; a rootfs archive needs one."""

    name: str | None = None
    format: Literal["auto", "oci", "docker", "rootfs"] = "auto"


class Progress(Value):
    """One step of a long job: done and total count bytes; total is 0 while it is not known."""

    status: str
    id: str = ""
    done: int = 0
    total: int = 0


class MountSpec(Value):
    """A volume in a container. `volume` is its id; `capacity_bytes` and `volume_host` are the volume's, of the time
    when it was joined."""

    volume: str
    volume_name: str
    destination: str
    read_only: bool = False
    subpath: str = ""
    capacity_bytes: int | None = None
    volume_host: str = ""


class Volume(Value, omit_defaults=False):
    """host: the one that it lives on; empty before its first use, unless it was created for one."""

    id: str
    name: str
    store: str
    labels: dict[str, str]
    anonymous: bool = False
    capacity_bytes: int | None = None
    created_at: str
    host: str = ""


class CreateVolume(Value):
    """`capacity_bytes`: at most so much can be written to it; None for what the host has. `host`: where it shall live;
    None: where it is used first."""

    name: str | None = None
    store: str | None = None
    labels: dict[str, str] = {}
    capacity_bytes: int | None = None
    host: str | None = None


class ListVolumes(Value):
    name: str | None = None
    label: tuple[str, ...] = ()
    limit: int = 100
    after: str | None = None


class Volumes(Value):
    volumes: tuple[Volume, ...]
    next: str | None


class VolumeRef(Value):
    ref: str


class StoreInfo(Value):
    name: str
    driver: str


class ImageStores(Value):
    image_stores: tuple[StoreInfo, ...]
    next: str | None


class VolumeStores(Value):
    volume_stores: tuple[StoreInfo, ...]
    next: str | None


class ListStores(Value):
    limit: int = 100
    after: str | None = None


class Nothing(Value):
    """An empty request."""


class JoinVolume(Value):
    handle: str
    volume: str
    destination: str
    read_only: bool = False
    subpath: str | None = None


class LeaveVolume(Value):
    """Exactly one of `volume` and `destination`."""

    handle: str
    volume: str | None = None
    destination: str | None = None


class HandleAnswer(Value):
    """The answer of a mutation that gives nothing but the new handle."""

    handle: str
