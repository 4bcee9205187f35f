"""Storage in memory: layers parsed from their tars, trees for root filesystems and volumes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

from portlayer.model.errors import InvalidArgument, NotFound, SubstrateFailed
from portlayer.model.execution import ContainerSpec
from portlayer.substrates.memory.driver import Driver, step
from portlayer.substrates.memory.files import Files, parse_layer
from portlayer.substrates.memory.world import Rootfs


class MemoryStorage(Driver):
    """Layers, root filesystems and volumes of a World."""

    room = "storage"

    @step
    async def put_layer(self, diff_id: str, tar: AsyncIterator[bytes]) -> int:
        data = bytearray()
        async for piece in tar:
            data += piece
            self.world.require_disk(len(data))
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != diff_id:
            raise InvalidArgument(f"The layer is {found} and not {diff_id[:80]}; upload it again, whole.")
        if diff_id not in self.world.layers:
            self.world.layers[diff_id] = await asyncio.to_thread(parse_layer, bytes(data))
        return self.world.layers[diff_id].size

    @step
    async def has_layer(self, diff_id: str) -> bool:
        return diff_id in self.world.layers

    @step
    async def layers(self) -> list[str]:
        return sorted(self.world.layers)

    @step
    async def remove_layer(self, diff_id: str) -> None:
        users = [name for name, rootfs in self.world.rootfs.items() if diff_id in rootfs.layers]
        if users:
            raise SubstrateFailed(
                f"Layer {diff_id} is under the root filesystem of {users[0]}; remove that first.",
                step="storage.removeLayer",
                id=diff_id,
            )
        self.world.drop_layer(diff_id)

    @step
    async def make_rootfs(self, container: ContainerSpec, held_by: str = "") -> None:
        del held_by  # there is one tree for each container, whoever has it
        if not container.image.layers:
            raise InvalidArgument(f"Image {container.image.name} has no layers; import one that has.")
        missing = [layer for layer in container.image.layers if layer not in self.world.layers]
        if missing:
            raise NotFound(f"Layer {missing[0]} is not on this host; import the image.", kind="layer", id=missing[0])
        rootfs = self.world.rootfs.get(container.id)
        if rootfs is None:
            tree = self.world.tree(container.image.layers)
            self.world.rootfs[container.id] = Rootfs(Files(tree), container.image.layers)
        else:
            rootfs.mounted = True

    @step
    async def missing(self, containers: Sequence[str]) -> list[str]:
        there = self.world.rootfs
        return [container for container in containers if container in there and not there[container].mounted]

    @step
    async def release_rootfs(self, container: str) -> None:
        self._refuse_while_live(container, "storage.releaseRootfs")
        rootfs = self.world.rootfs.get(container)
        if rootfs is not None:
            rootfs.mounted = False

    @step
    async def remove_rootfs(self, container: str) -> None:
        self._refuse_while_live(container, "storage.removeRootfs")
        rootfs = self.world.rootfs.pop(container, None)
        if rootfs is not None:
            rootfs.log.removed = True
            rootfs.log.bell.ring()

    @step
    async def rootfs(self) -> list[str]:
        return sorted(self.world.rootfs)

    @step
    async def check_capacity(self) -> None:
        """Volumes here can have one."""

    @step
    async def make_volume(self, volume: str, capacity_bytes: int | None = None) -> None:
        self.world.volumes.setdefault(volume, Files(capacity_bytes=capacity_bytes))

    @step
    async def remove_volume(self, volume: str) -> None:
        self.world.volumes.pop(volume, None)

    @step
    async def volumes(self) -> list[str]:
        return sorted(self.world.volumes)

    @step
    async def written(self, containers: Sequence[str], volumes: Sequence[str]) -> dict[str, int]:
        rootfs = {each: self.world.rootfs[each] for each in containers if each in self.world.rootfs}
        taken = {each: found.files.written + found.log.end for each, found in rootfs.items()}
        return taken | {each: self.world.volumes[each].written for each in volumes if each in self.world.volumes}

    def _refuse_while_live(self, container: str, step_name: str) -> None:
        if self.world.live(container):
            raise SubstrateFailed(
                f"The root filesystem of {container} is in use by its process; remove that first.",
                step=step_name,
                id=container,
            )
