"""The Linux substrate's storage: content-addressed layers, overlay root filesystems over them, volumes.

Nothing appears under its name before it is whole: a layer is unpacked in `staging` and renamed, a tree that goes is
renamed into `trash` first. What a death of the process leaves in those two is swept at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from portlayer.model.errors import InvalidArgument, NotFound, ResourceExhausted, SubstrateFailed, Unsupported
from portlayer.model.execution import ContainerSpec
from portlayer.pump import pump
from portlayer.substrates.linux import disks, files, mounts, overlay, process, staging, trash
from portlayer.substrates.linux.incarnation import Incarnation
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.regain import regain
from portlayer.substrates.linux.unpack import Unpacker
from portlayer.substrates.linux.usage import disk_usage

_THREADS = 4
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
T = TypeVar("T")


class LinuxStorage:
    """`interfaces.substrate.StorageDriver`. Several processes may share the directories in *paths*.

    What takes a fraction of a millisecond (a mount, a rename) is done in place: a thread would cost more.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._threads = ThreadPoolExecutor(_THREADS, "storage")
        self._trash = trash.of_trees(paths.trash)
        self._leaving = trash.of_mounts(paths.leaving)
        self._unmounting: dict[str, asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Make the directories and sweep what an earlier process left half done. Mounted root filesystems stay.

        Raises Unavailable where this host cannot mount overlays there.
        """
        paths = self._paths
        with _host_errors("storage.start"):
            for directory in (paths.layers, paths.containers, paths.volumes, paths.staging, paths.trash):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Setuid programs of images are not for users of the host; a group must not be inherited, either.
                directory.chmod(0o700)
            files.spread(str(paths.containers))
            overlay.make_skeleton(paths.skeleton)
            await asyncio.to_thread(self._probe)
            staging.sweep(paths.staging, self._trash.throw)
            _detach(mounts.mounts_under(paths.trash))  # by a death during the probe
            await self._trash.start()
            await self._leaving.start()

    async def close(self) -> None:
        """Let go of threads and descriptors; waits some seconds for the trash to be empty. Mounts stay."""
        await asyncio.gather(*self._unmounting.values())
        await self._leaving.close()
        await self._trash.close()
        await asyncio.to_thread(self._threads.shutdown)

    async def put_layer(self, diff_id: str, tar: AsyncIterator[bytes]) -> int:
        layer = self._paths.layer(diff_id)
        if layer.exists():
            return await self._verify_layer(layer, diff_id, tar)
        with contextlib.ExitStack() as stack:
            with _host_errors("storage.putLayer"):
                place = stack.enter_context(staging.workplace(self._paths.staging))
                (place / "fs").mkdir()
                (place / "fs").chmod(0o755)
                unpacker = Unpacker(place / "fs")
            try:
                await self._feed(unpacker.feed, tar)
                found = await self._run("storage.putLayer", unpacker.finish)
                _check_digest(diff_id, found)
                await self._run("storage.putLayer", lambda: _publish(place, layer, unpacker.size_bytes))
            finally:
                await asyncio.shield(self._discard(place, unpacker))
        return unpacker.size_bytes

    async def has_layer(self, diff_id: str) -> bool:
        return self._paths.layer(diff_id).exists()

    async def layers(self) -> list[str]:
        with _host_errors("storage.layers"):
            return [f"sha256:{name}" for name in _names(self._paths.layers)]

    async def remove_layer(self, diff_id: str) -> None:
        with _host_errors("storage.removeLayer"):
            self._trash.throw(self._paths.layer(diff_id))

    async def make_rootfs(self, container: ContainerSpec, held_by: str = "") -> None:
        pending = self._unmounting.get(container.id)
        if pending is not None:
            await asyncio.shield(pending)  # overlayfs wants upper and work for itself alone
        if not container.image.layers:
            raise InvalidArgument(f"Image {container.image.name} has no layers; import one that has.")
        with _host_errors("storage.makeRootfs", container.id):
            target = self._paths.rootfs(container.id)
            if mounts.is_mounted(target):
                return
            if held_by and await self._regain(held_by, target):
                return
            lowers = overlay.lowers([self._layer_tree(diff_id) for diff_id in container.image.layers])
            directory = self._paths.container(container.id)
            directory.mkdir(mode=0o700, exist_ok=True)
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            overlay.mount(self._paths.mount_source, target, [*lowers, self._paths.skeleton], directory)

    async def missing(self, containers: Sequence[str]) -> list[str]:
        with _host_errors("storage.missing"):
            return [
                container
                for container in containers
                if not mounts.is_mounted(self._paths.rootfs(container)) and self._paths.container(container).exists()
            ]

    async def release_rootfs(self, container: str) -> None:
        loop = asyncio.get_running_loop()
        with _host_errors("storage.releaseRootfs", container):
            held = await loop.run_in_executor(self._threads, overlay.unmount, self._paths.rootfs(container))
        if held is not None:
            closing = loop.run_in_executor(self._threads, os.close, held)
            self._unmounting[container] = closing
            closing.add_done_callback(lambda _: self._unmounting.pop(container, None))

    async def remove_rootfs(self, container: str) -> None:
        with _host_errors("storage.removeRootfs", container):
            self._trash.throw(self._paths.container(container))
            self._leaving.throw(self._paths.rootfs(container).parent)

    async def rootfs(self) -> list[str]:
        with _host_errors("storage.rootfs"):
            return sorted({*_names(self._paths.containers), *_names(self._paths.mounted)})

    async def check_capacity(self) -> None:
        lack = disks.lack()
        if lack:
            raise Unsupported(
                f"This host cannot limit a volume: {lack}. Or leave capacityBytes out.",
                option="capacityBytes",
                pointer="/capacityBytes",
            )

    async def make_volume(self, volume: str, capacity_bytes: int | None = None) -> None:
        if capacity_bytes is not None:
            await self._run("storage.makeVolume", lambda: self._make_disk(volume, capacity_bytes))
            return
        with _host_errors("storage.makeVolume", volume):
            data = self._paths.volume(volume)
            if not data.exists():
                data.mkdir(parents=True)
                data.chmod(0o755)

    async def remove_volume(self, volume: str) -> None:
        with _host_errors("storage.removeVolume", volume):
            self._trash.throw(self._paths.volume(volume).parent)

    async def volumes(self) -> list[str]:
        with _host_errors("storage.volumes"):
            return _names(self._paths.volumes)

    async def written(self, containers: Sequence[str], volumes: Sequence[str]) -> dict[str, int]:
        trees = {self._paths.container(each): each for each in containers}
        trees |= {self._paths.volume(each): each for each in volumes}
        with _host_errors("storage.written"):
            return {trees[tree]: size for tree, size in (await disk_usage(list(trees))).items()}

    async def leftovers(self) -> list[str]:
        """A line for each mount of this instance and each tree half made or half deleted; needs no `start`."""
        with _host_errors("storage.leftovers"):
            return await asyncio.to_thread(self._leftovers)

    async def purge(self) -> None:
        """Remove what `leftovers` lists; layers, volumes and what containers wrote stay."""
        with _host_errors("storage.purge"):
            await asyncio.to_thread(self._unmount_all)
            for directory in (self._paths.staging, self._paths.trash):
                await trash.delete_content(directory)

    async def let_go(self) -> None:
        """No process is left: mounts only wait to be needed again, and are made again then."""
        with _host_errors("storage.release"):
            await asyncio.to_thread(self._unmount_all)

    async def _regain(self, incarnation: str, target: Path) -> bool:
        """Mount at *target* what the process of *incarnation* has; False where that has ended."""
        record = Incarnation(self._paths, incarnation).record()
        if record is None or not process.is_alive(record.init):
            return False
        source, loop = self._paths.mount_source, asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, regain, record.init, source, target)

    async def _verify_layer(self, layer: Path, diff_id: str, tar: AsyncIterator[bytes]) -> int:
        """Whoever puts a layer must have it: its digest alone, which is no secret, gives no claim to another's."""
        digest = hashlib.sha256()
        await self._feed(digest.update, tar)
        _check_digest(diff_id, f"sha256:{digest.hexdigest()}")
        return int(await self._run("storage.putLayer", (layer / "size").read_text))

    async def _feed(self, feed: Callable[[bytes], None], tar: AsyncIterator[bytes]) -> None:
        def guarded(chunk: bytes) -> None:
            with _host_errors("storage.putLayer"):
                feed(chunk)

        await pump(tar, guarded, self._threads)

    async def _discard(self, place: Path, unpacker: Unpacker) -> None:
        await self._run("storage.putLayer", unpacker.close)
        self._trash.throw(place)

    async def _run(self, step: str, function: Callable[[], T]) -> T:
        with _host_errors(step):
            return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def _probe(self) -> None:
        """Raises Unavailable where no overlay can be mounted in the state's directory."""
        with staging.workplace(self._paths.staging) as place:
            try:
                overlay.probe(self._paths.mount_source, place)
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def _layer_tree(self, diff_id: str) -> Path:
        tree = self._paths.layer(diff_id) / "fs"
        if not tree.exists():
            raise NotFound(f"Layer {diff_id} is not here; import the image again.", kind="layer", id=diff_id)
        return tree

    def _make_disk(self, volume: str, capacity_bytes: int) -> None:
        disk = self._paths.disk(volume)
        if disk.exists():
            return
        with staging.workplace(self._paths.staging) as place:
            try:
                made, scratch = place / volume, place / "scratch"
                made.mkdir(mode=0o700)
                scratch.mkdir()
                disks.make(made / disk.name, capacity_bytes, scratch)
                with contextlib.suppress(FileExistsError):
                    made.rename(disk.parent)
            finally:
                shutil.rmtree(place)

    def _leftovers(self) -> list[str]:
        mounted = mounts.mounts_under(self._paths.run, self._paths.mount_source)
        trees = [path for area in (self._paths.staging, self._paths.trash) if area.exists() for path in area.iterdir()]
        return [*(f"mount {mount.target} ({mount.kind})" for mount in mounted), *(f"tree {path}" for path in trees)]

    def _unmount_all(self) -> None:
        _detach(mounts.mounts_under(self._paths.run, self._paths.mount_source))


def _detach(mounted: Iterable[mounts.Mount]) -> None:
    for mount in mounted:
        mounts.detach(mount.target)


def _publish(place: Path, layer: Path, size_bytes: int) -> None:
    """Give the layer its name once it would survive a loss of power; another put of it may have been faster."""
    (place / "size").write_text(str(size_bytes))
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        mounts.sync_filesystem(descriptor)
        try:
            place.rename(layer)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
    finally:
        os.close(descriptor)


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def _check_digest(expected: str, found: str) -> None:
    if found != expected:
        raise InvalidArgument(f"The layer's diffID is {found}, not {expected} as promised; nothing of it was kept.")


@contextmanager
def _host_errors(step: str, container: str | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise ResourceExhausted("The disk is full; free space and try again.", resource="disk") from error
        raise SubstrateFailed(f"{step} failed on the host: {error}.", step=step, id=container) from error
