"""Puts an image together from a configuration and layers, wherever they were found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from portlayer.components.archives.config import read_config
from portlayer.components.archives.values import ArchivedImage, ArchivedLayer, Blob
from portlayer.model.errors import InvalidArgument, Unsupported

MAX_LAYERS = 127
"""As many as Docker stacks."""


def assemble(config: bytes, layers: Sequence[tuple[Blob, str]], names: tuple[str, ...]) -> ArchivedImage:
    """The image of a configuration and its layers (blob, media type), from the lowest up.

    Raises:
        InvalidArgument: they do not fit each other, or there is no layer.
        Unsupported: there are more layers than a root filesystem can have.
    """
    diff_ids = read_config(config).diff_ids
    if len(diff_ids) != len(layers):
        raise InvalidArgument(f"The image has {len(layers)} layers, but its configuration lists {len(diff_ids)}.")
    if not layers:
        raise InvalidArgument("The image has no layers; there is nothing to run in it.")
    if len(layers) > MAX_LAYERS:
        raise Unsupported(f"The image has {len(layers)} layers; {MAX_LAYERS} is the most. Squash it.", option="layers")
    return ArchivedImage(
        names=names,
        config_bytes=config,
        config_digest=f"sha256:{hashlib.sha256(config).hexdigest()}",
        layers=tuple(
            ArchivedLayer(blob.path, blob.digest, diff_id, blob.size_bytes, media_type)
            for (blob, media_type), diff_id in zip(layers, diff_ids, strict=True)
        ),
    )
