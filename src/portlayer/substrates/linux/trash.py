"""Deletes trees and unmounts filesystems where nobody waits: a rename takes them away at once, the rest is done later.

Deleting what is large is left to another process because a thread would compete for the interpreter with everything
that is urgent. An unmount waits for all processors (RCU), some milliseconds on a busy host: the loop must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from pathlib import Path

from portlayer.substrates.linux import mounts

_GATHER_SECONDS = 0.2
"""How long to gather what is thrown away together: one process a batch, not one a container."""
_CLOSE_SECONDS = 3.0
_BATCH = 500
_SMALL = 64
"""Entries up to which a tree is deleted in a thread."""
_log = logging.getLogger(__name__)


class Trash:
    """directory: of trees to be deleted. mounted: of directories with mounts in them, which go with these. Whatever is
    there when it starts goes, too.
    """

    def __init__(self, directory: Path, mounted: Path) -> None:
        self._directory = directory
        self._mounted = mounted
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to delete."""
        for directory in (self._directory, self._mounted):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._wake()
        self._task = asyncio.create_task(self._run(), name="storage trash")

    async def close(self) -> None:
        """Wait a few seconds for the trash to be empty; what is left is deleted after the next start."""
        if self._task is None:
            return
        self._hurry.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _CLOSE_SECONDS)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None

    def throw(self, path: Path) -> None:
        """Take *path* away now and delete it later; none being there is fine."""
        self._take(path, self._directory)

    def throw_mounted(self, path: Path) -> None:
        """Take *path*, a directory of mount points, away now, and unmount what is there later; before any tree that is
        thrown away with it is deleted. None being there is fine."""
        self._take(path, self._mounted)

    def _take(self, path: Path, away: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            path.rename(away / f"{path.name}.{secrets.token_hex(4)}")
            self._wake()

    def _wake(self) -> None:
        self._idle.clear()
        self._filled.set()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _GATHER_SECONDS)
            self._filled.clear()
            try:
                await asyncio.to_thread(_unmount_content, self._mounted)
                await delete_content(self._directory)
            except OSError as error:
                _log.warning("The trash could not be deleted: %s", error)
            if not self._filled.is_set():
                self._idle.set()


def _unmount_content(directory: Path) -> None:
    """Unmount all that is mounted on the children of the directories in *directory*, and remove these."""
    for place in directory.iterdir() if directory.exists() else ():
        with contextlib.suppress(FileNotFoundError):  # another process of ours looks after it, too
            for target in place.iterdir():
                if mounts.is_mounted(target):
                    mounts.detach(target)
                target.rmdir()
            place.rmdir()


async def delete_content(directory: Path) -> None:
    """Delete everything in *directory*, but never what is mounted in it."""
    try:
        names = await asyncio.to_thread(os.listdir, directory)
    except FileNotFoundError:
        return
    paths = [str(directory / name) for name in names]
    large = await asyncio.to_thread(lambda: [path for path in paths if not _delete_small(path)])
    for start in range(0, len(large), _BATCH):
        await _remove(large[start : start + _BATCH])


def _delete_small(path: str) -> bool:
    """Delete a tree of a few entries here, for which a process would cost more; False, and perhaps half of it left,
    where it is larger. os.fwalk does not follow links, and stays below *path* whoever moves things in it."""
    left = _SMALL
    try:
        device = os.lstat(path).st_dev
        for _, directories, files, descriptor in os.fwalk(path, topdown=False):
            left -= len(directories) + len(files)
            if left < 0 or os.fstat(descriptor).st_dev != device:
                return False
            for name in files:
                os.unlink(name, dir_fd=descriptor)
            for name in directories:
                _remove_directory(name, descriptor)
        Path(path).rmdir()
    except OSError:
        return False
    return True


def _remove_directory(name: str, parent: int) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except NotADirectoryError:
        os.unlink(name, dir_fd=parent)  # a link to a directory


async def _remove(paths: list[str]) -> None:
    command = ("nice", "-n", "19", "rm", "-rf", "--one-file-system", "--", *paths)
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, errors = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    if process.returncode:
        _log.warning("Not all of the trash could be deleted: %s", errors.decode(errors="replace")[:500])
