"""Finds directories below a root, as a process would to which that root is all there is.

Every component is opened from the one before, and never through a symlink: what a symlink says is walked the same way,
where `/` is the root, and so is what is above it. So no path, however made, leads out. Source: openat2(2),
RESOLVE_IN_ROOT, which this does on any kernel, and making what is missing.
"""

from __future__ import annotations

import errno
import os

from portlayer.model.errors import InvalidArgument
from portlayer.tarstream import show

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 128
"""Directories below each other; every one of the current path is held open."""
_MAX_LINKS = 40
"""Symlinks on one path, as the kernel has it."""


class Walk:
    """The open directories of one path below *root*: entries of the same directory cost no lookup."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: list[tuple[bytes, int]] = []

    @property
    def place(self) -> tuple[bytes, ...]:
        """Where the last call led to, without symlinks."""
        return tuple(name for name, _ in self._open)

    def enter(self, path: list[bytes]) -> int:
        """A descriptor of directory *path*, good until the next call; directories that are missing are made.

        Raises:
            InvalidArgument: the path leads through what is no directory, or is too deep.
        """
        return self._enter(path, make=True)

    def find(self, path: list[bytes]) -> int:
        """The same, of what is there; raises FileNotFoundError, too."""
        return self._enter(path, make=False)

    def forget(self, keep: int = 0) -> None:
        """Close all but the *keep* uppermost directories."""
        while len(self._open) > keep:
            os.close(self._open.pop()[1])

    def _enter(self, path: list[bytes], *, make: bool) -> int:
        common = self._common(path)
        self.forget(common)
        rest = path[common:][::-1]
        links = 0
        while rest:
            target = self._step(rest.pop(), path, make=make)
            if target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise _refused(path, "symlinks without end")
                rest += _components(target)[::-1]
        return self._here

    @property
    def _here(self) -> int:
        return self._open[-1][1] if self._open else self._root

    def _common(self, path: list[bytes]) -> int:
        """How many components of *path* are open. None of them is a symlink: those are never opened."""
        common = 0
        for (name, _), wanted in zip(self._open, path, strict=False):
            if name != wanted:
                break
            common += 1
        return common

    def _step(self, name: bytes, path: list[bytes], *, make: bool) -> bytes | None:
        """Go on to *name*; where that is a symlink, stay, or go to the root, and return what it says."""
        if name == b"..":
            self.forget(max(len(self._open) - 1, 0))
            return None
        try:
            self._open.append((name, self._opened(name, make=make)))
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
            return self._link(name, path)
        if len(self._open) > _MAX_DEPTH:
            raise InvalidArgument(f"The archive nests directories deeper than {_MAX_DEPTH}; such archives are refused.")
        return None

    def _opened(self, name: bytes, *, make: bool) -> int:
        try:
            return os.open(name, DIRECTORY, dir_fd=self._here)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(name, 0o755, dir_fd=self._here)
            return os.open(name, DIRECTORY, dir_fd=self._here)

    def _link(self, name: bytes, path: list[bytes]) -> bytes:
        try:
            target = os.readlink(name, dir_fd=self._here)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise _refused(path, f"{show(name)}, which is no directory") from None
        if target.startswith(b"/"):
            self.forget()
        return target


def _components(target: bytes) -> list[bytes]:
    return [part for part in target.split(b"/") if part not in {b"", b"."}]


def _refused(path: list[bytes], through: str) -> InvalidArgument:
    return InvalidArgument(
        f"{show(b'/'.join(path))} of the archive leads through {through}; such archives are refused."
    )
