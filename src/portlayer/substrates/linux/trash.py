"""Deletes trees and unmounts filesystems where nobody waits: a rename takes them away at once, the rest is done later,
in batches.

Deleting more than a few is left to another process, a nice `rm`, because a thread would compete for the interpreter
with everything that is urgent. An unmount waits for all processors (RCU), some milliseconds on a busy host: the loop
must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from portlayer.substrates.linux import mounts

_TREES_SECONDS = 1.0
"""How long to gather what is thrown away together: one process a batch, not one a container."""
_MOUNTS_SECONDS = 0.03
"""Shorter, for every start copies all mounts."""
_CLOSE_SECONDS = 3.0
_BATCH = 500
_FEW, _SMALL = 3, 64
"""Trees, and entries of one, up to which they are deleted in a thread."""
_log = logging.getLogger(__name__)


class Trash:
    """A directory of what is to go; *empty* makes it go, some *seconds* after the first came. Whatever is in it when it
    starts goes, too."""

    def __init__(self, directory: Path, seconds: float, empty: Callable[[Path], Awaitable[None]]) -> None:
        self._directory = directory
        self._seconds = seconds
        self._empty = empty
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to empty it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._wake()
        self._task = asyncio.create_task(self._run(), name=f"emptying {self._directory.name}")

    async def close(self) -> None:
        """Wait a few seconds for it to be empty; what is left goes after the next start."""
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
        """Take *path* away now; none being there is fine."""
        with contextlib.suppress(FileNotFoundError):
            path.rename(self._directory / f"{path.name}.{secrets.token_hex(4)}")
            self._wake()

    def _wake(self) -> None:
        self._idle.clear()
        self._filled.set()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._seconds)
            self._filled.clear()
            try:
                await self._empty(self._directory)
            except OSError as error:
                _log.warning("%s could not be emptied: %s", self._directory, error)
            if not self._filled.is_set():
                self._idle.set()


def of_trees(directory: Path) -> Trash:
    """What is thrown into it is deleted."""
    return Trash(directory, _TREES_SECONDS, delete_content)


def of_mounts(directory: Path) -> Trash:
    """Directories are thrown into it; what is mounted on their children is unmounted, and they are removed."""
    return Trash(directory, _MOUNTS_SECONDS, _unmount_content)


async def _unmount_content(directory: Path) -> None:
    places = [directory / name for name in _names(directory)]
    targets = [place / name for place in places for name in _names(place)]
    await asyncio.to_thread(_detach, targets)
    for path in (*targets, *places):
        with contextlib.suppress(FileNotFoundError):  # another process of ours looks after it, too
            path.rmdir()


def _detach(targets: Iterable[Path]) -> None:
    for target in targets:
        mounts.detach(target)


async def delete_content(directory: Path) -> None:
    """Delete everything in *directory*, but never what is mounted in it."""
    paths = [str(directory / name) for name in await asyncio.to_thread(_names, directory)]
    if len(paths) <= _FEW:
        paths = await asyncio.to_thread(lambda: [path for path in paths if not _delete_small(path)])
    for start in range(0, len(paths), _BATCH):
        await _remove(paths[start : start + _BATCH])


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208
    except FileNotFoundError:
        return []


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
