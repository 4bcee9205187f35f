"""What images take of a disk, as a quota counts it, and how much an import may bring.

A layer is kept twice: unpacked, and as the blobs that it came in, of which there may be several. It counts as whichever
of the two is more: as a rule what it unpacks to. So neither a blob that is mostly padding, nor one layer compressed in
many ways, takes more of the disk than twice what was counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from portlayer.model.errors import ResourceExhausted

NAMES = {
    "containers": "containers",
    "cpus": "cpus",
    "memory_bytes": "memoryBytes",
    "storage_bytes": "storageBytes",
    "networks": "networks",
    "addresses": "addresses",
}
"""What can have a limit: as a field of Quota, and as the API calls it."""
BESIDE_LAYERS = 16 << 20
"""Bytes that an archive may have besides what is in its layers: configurations, padding, names."""


class KeptLayer(Protocol):
    """A layer of an image, as one has it in a record."""

    @property
    def diff_id(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def unpacked_bytes(self) -> int: ...


class Footprint:
    """Of all *layers*, each once."""

    def __init__(self, layers: Iterable[KeptLayer]) -> None:
        self._unpacked: dict[str, int] = {}
        self._blobs: dict[str, dict[str, int]] = {}
        self.add(layers)

    def add(self, layers: Iterable[KeptLayer]) -> None:
        """Count *layers* too."""
        for layer in layers:
            self._unpacked[layer.diff_id] = layer.unpacked_bytes or layer.size_bytes
            self._blobs.setdefault(layer.diff_id, {})[layer.digest] = layer.size_bytes

    def __contains__(self, diff_id: str) -> bool:
        return diff_id in self._unpacked

    @property
    def bytes(self) -> int:
        return sum(max(size, sum(self._blobs[layer].values())) for layer, size in self._unpacked.items())


class Room:
    """How much an import may bring: it ends where the quota would be exceeded, before the disk is full of it.

    limit: None, there is none. used: of it. mine: the layers that the VCH has. sizes: what those that were measured
    unpack to.
    """

    def __init__(self, vch: str, limit: float | None, used: float, mine: Footprint) -> None:
        self.sizes: dict[str, int] = {}
        self._vch, self._limit, self._used, self._mine = vch, limit, used, mine

    def staged(self, size: int) -> None:
        """An archive of *size* bytes so far lies on the disk. Raises ResourceExhausted where no quota so large as this
        one holds it: what it has may be there already, so only the whole limit counts."""
        if self._limit is not None and size > self._limit * 65 / 64 + BESIDE_LAYERS:
            raise exhausted(self._vch, "storage_bytes", self._limit, self._used, size)

    async def measured(self, layer: str, tar: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """*tar* as it is, and afterwards its size is known. Raises ResourceExhausted once it is too much."""
        others = sum(size for other, size in self.sizes.items() if other not in self._mine and other != layer)
        size = 0
        async for piece in tar:
            size += len(piece)
            fresh = others + size
            if self._limit is not None and layer not in self._mine and self._used + fresh > self._limit:
                raise exhausted(self._vch, "storage_bytes", self._limit, self._used, fresh)
            yield piece
        self.sizes[layer] = size


def exhausted(vch: str, resource: str, limit: float, used: float, asked: float) -> ResourceExhausted:
    """The refusal: what has run out, and by how much."""
    name = NAMES[resource]
    return ResourceExhausted(
        f"VCH {vch} has a quota of {limit:.12g} {name}: {used:.12g} in use, {asked:.12g} more asked for; "
        "remove something, or have the quota raised.",
        resource=name,
        limit=limit,
        used=used,
        requested=asked,
    )
