"""The calls of storage: images, volumes, and joining volumes to a container."""

from __future__ import annotations

from portlayer.model import storage as m
from portlayer.rest.calls.call import BYTES, Table

DIGEST_HEADER = "Docker-Content-Digest"
"""As registries have it."""
PROGRESS = "application/x-ndjson"
_REGISTRIES = "images come by import in this version"
_FILES = "files go in and out through a volume in this version"

_table = Table("storage")

JOIN = _table.mutation("join", m.JoinVolume, m.HandleAnswer)
LEAVE = _table.mutation("leave", m.LeaveVolume, m.HandleAnswer)

IMPORT_IMAGE = _table.create(
    "import-image",
    "images/import",
    m.ImportImage,
    m.Images,
    consumes=BYTES,
    also_produces=(PROGRESS,),
    leaves=True,
)
LIST_IMAGES = _table.get("list-images", "images", m.ListImages, m.Images)
GET_IMAGE = _table.get("get-image", "images/{ref}", m.ImageRef, m.Image)
DELETE_IMAGE = _table.delete("delete-image", "images/{ref}", m.DeleteImage)
_table.unsupported("POST", "images/pull", _REGISTRIES)
_table.unsupported("POST", "images/push", _REGISTRIES)
_table.unsupported("POST", "images/{ref}/tag", "import the image under its other name in this version")
_table.unsupported("GET", "images/{ref}/archive", "images are not exported in this version")
GET_LAYER = _table.get("get-layer", "layers/{digest}", m.LayerRef, bytes, produces=BYTES, streams=True)
_table.unsupported("PUT", "layers/{digest}", _REGISTRIES)
_table.unsupported("GET", "usage", "disk usage is not counted in this version")

CREATE_VOLUME = _table.create("create-volume", "volumes", m.CreateVolume, m.Volume)
LIST_VOLUMES = _table.get("list-volumes", "volumes", m.ListVolumes, m.Volumes)
GET_VOLUME = _table.get("get-volume", "volumes/{ref}", m.VolumeRef, m.Volume)
DELETE_VOLUME = _table.delete("delete-volume", "volumes/{ref}", m.VolumeRef)
IMAGE_STORES = _table.get("image-stores", "image-stores", m.ListStores, m.ImageStores)
VOLUME_STORES = _table.get("volume-stores", "volume-stores", m.ListStores, m.VolumeStores)

_table.unsupported("POST", "containers/{ref}/image", "import the files as an image in this version")
_table.unsupported("GET", "containers/{ref}/changes", _FILES)
for _verb in ("GET", "PUT"):
    _table.unsupported(_verb, "containers/{ref}/archive", _FILES)
    _table.unsupported(_verb, "volumes/{ref}/archive", _FILES)

CALLS = _table.calls
