"""docker-archives: what `docker save` writes, on its own or beside an OCI layout."""

from __future__ import annotations

import re

import msgspec

from portlayer.components.archives.assembly import assemble
from portlayer.components.archives.compression import suffix_of
from portlayer.components.archives.config import load, read
from portlayer.components.archives.spool import Contents
from portlayer.components.archives.values import LAYER_TAR, ArchivedImage, Blob
from portlayer.model.errors import InvalidArgument

MANIFEST = "manifest.json"
_NAMED_BY_DIGEST = re.compile(r"([0-9a-f]{64})\.json")


class _Entry(msgspec.Struct, rename="pascal"):
    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


def read_docker(contents: Contents) -> list[ArchivedImage]:
    """The images of a docker-archive with their raw RepoTags."""
    return [_image(contents, entry) for entry in _entries(contents)]


def repo_tags(contents: Contents) -> dict[str, tuple[str, ...]]:
    """The names that a docker-archive gives to images, by the digests of their configurations."""
    found = ((contents.get(entry.config), entry.repo_tags) for entry in _entries(contents))
    return {config.digest: tuple(tags) for config, tags in found if config is not None and tags}


def _entries(contents: Contents) -> list[_Entry]:
    manifest = contents.get(MANIFEST)
    if manifest is None:
        raise InvalidArgument(f"The archive is no docker-archive: it lacks {MANIFEST}.")
    return load(manifest, list[_Entry], MANIFEST)


def _image(contents: Contents, entry: _Entry) -> ArchivedImage:
    config = _file(contents, entry.config, "configuration")
    promised = _NAMED_BY_DIGEST.fullmatch(entry.config)
    if promised is not None and config.digest != f"sha256:{promised[1]}":
        raise InvalidArgument(f"{entry.config} of the archive has the digest {config.digest}; it is corrupt.")
    layers = [_file(contents, name, "layer") for name in entry.layers or ()]
    typed = [(layer, LAYER_TAR + suffix_of(layer.path)) for layer in layers]
    return assemble(read(config, "image configuration"), typed, tuple(entry.repo_tags or ()))


def _file(contents: Contents, name: str, what: str) -> Blob:
    blob = contents.get(name)
    if blob is None:
        raise InvalidArgument(f"The archive lacks the {what} {name[:200]!r}; export it again, complete.")
    return blob
