"""Unpacks a layer's tar into a directory in the form that overlayfs reads; nothing outside that directory is touched.

Names are taken as Docker and containerd take them: relative to the directory, also with a leading slash, and symlinks
of the archive on the way to an entry lead where they would in a container (see `inside`): no archive, however made, can
lead out. Whiteouts become what overlayfs takes for them:

    .wh.name        a character device 0/0 called `name`
    .wh..wh..opq    the attribute trusted.overlay.opaque=y of its directory

Sources: OCI image spec, layer.md ("Whiteouts"); the kernel's filesystems/overlayfs.rst ("whiteouts and opaque
directories").
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portlayer import tarstream
from portlayer.model.errors import InvalidArgument, ResourceExhausted, SubstrateFailed
from portlayer.substrates.linux import inside
from portlayer.substrates.linux.overlay import OPAQUE
from portlayer.tarstream import Member, show

WHITEOUT_DEVICE = os.makedev(0, 0)
_WHITEOUT = b".wh."
_OPAQUE_MARK = b".wh..wh..opq"
_AUFS = b".wh..wh."
_OVERLAY_XATTR = b"trusted.overlay."
_BLOCK = 4096

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BAD_ENTRY = frozenset(
    {
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EOVERFLOW,
        errno.EPERM,
        errno.E2BIG,
        errno.EFBIG,
        errno.ENOTSUP,
        errno.ERANGE,
    }
)


class Unpacker:
    """One layer on its way to disk. All calls block, so they belong in threads; a second one waits for the first."""

    def __init__(self, root: Path) -> None:
        """root: an empty directory."""
        self._lock = threading.Lock()
        self._root = os.open(root, inside.DIRECTORY)
        self._reader = tarstream.TarReader()
        self._digest = hashlib.sha256()
        self._walk = inside.Walk(self._root)
        self._targets = inside.Walk(self._root)
        self._directories: dict[tuple[bytes, ...], Member] = {}
        self._whiteouts: set[tuple[bytes, ...]] = set()
        self._file: tuple[int, Member] | None = None
        self.size_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the tar."""
        with self._lock:
            self._digest.update(chunk)
            for event in self._reader.feed(chunk):
                if isinstance(event, memoryview):
                    self._write(event)
                else:
                    self._finish_file()
                    self._entry(event)

    def finish(self) -> str:
        """The bytes are over: complete the tree. The diffID, `sha256:<hex>`, of all that was fed."""
        with self._lock:
            self._reader.close()
            self._finish_file()
            for path, member in sorted(self._directories.items()):
                with _entry_errors(member, self._root):
                    self._dress_directory(path, member)
        return f"sha256:{self._digest.hexdigest()}"

    def close(self) -> None:
        """Let go of all descriptors, once; what was unpacked stays."""
        with self._lock:
            self._walk.forget()
            self._targets.forget()
            if self._file is not None:
                os.close(self._file[0])
            os.close(self._root)

    def _entry(self, member: Member) -> None:
        path = tarstream.split(member.name)
        with _entry_errors(member, self._root):
            if not path:
                if member.kind != tarstream.DIRECTORY:
                    raise InvalidArgument(f"Entry {member.shown} of the archive replaces the root by a file.")
                self._directories[()] = member
                return
            name = path[-1]
            parent = self._walk.enter(path[:-1])
            if name.startswith(_WHITEOUT):
                self._whiteout(parent, (*self._walk.place, name))
            elif member.kind == tarstream.DIRECTORY:
                self._directory(parent, (*self._walk.place, name), member)
            else:
                self._make(parent, name, member)

    def _write(self, piece: memoryview) -> None:
        if self._file is None:
            return
        descriptor, member = self._file
        with _entry_errors(member, self._root):
            while piece:
                piece = piece[os.write(descriptor, piece) :]

    def _finish_file(self) -> None:
        if self._file is None:
            return
        descriptor, member = self._file
        with _entry_errors(member, self._root):
            if member.uid or member.gid:
                os.fchown(descriptor, *_owner(member))
            os.fchmod(descriptor, member.mode)
            for key, value in member.xattrs.items():
                os.setxattr(descriptor, _xattr_name(key, member), value)
            os.utime(descriptor, ns=(member.mtime, member.mtime))
        os.close(descriptor)
        self._file = None
        self.size_bytes += -(-member.size // _BLOCK) * _BLOCK

    def _directory(self, parent: int, path: tuple[bytes, ...], member: Member) -> None:
        """Modes, owners and times of directories wait for the end: what comes into one would change them."""
        try:
            os.mkdir(path[-1], 0o755, dir_fd=parent)
            self.size_bytes += _BLOCK
        except FileExistsError:
            present = os.stat(path[-1], dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(present.st_mode):
                self._clear(parent, path[-1])
                os.mkdir(path[-1], 0o755, dir_fd=parent)
        self._directories[path] = member
        if path in self._whiteouts:
            self._set_opaque(path)

    def _make(self, parent: int, name: bytes, member: Member) -> None:
        try:
            self._make_new(parent, name, member)
        except FileExistsError:
            self._clear(parent, name)
            self._make_new(parent, name, member)

    def _make_new(self, parent: int, name: bytes, member: Member) -> None:
        match member.kind:
            case tarstream.FILE:
                self._file = (os.open(name, _NEW_FILE, 0o600, dir_fd=parent), member)
                return
            case tarstream.HARD_LINK:
                self._hard_link(parent, name, member)
                return
            case tarstream.SYMLINK:
                os.symlink(member.target, name, dir_fd=parent)
            case tarstream.FIFO:
                os.mkfifo(name, 0o600, dir_fd=parent)
            case tarstream.CHARACTER | tarstream.BLOCK_DEVICE:
                kind = stat.S_IFCHR if member.kind == tarstream.CHARACTER else stat.S_IFBLK
                os.mknod(name, kind | 0o600, os.makedev(*member.device), dir_fd=parent)
        self._dress(parent, name, member)

    def _hard_link(self, parent: int, name: bytes, member: Member) -> None:
        target = tarstream.split(member.target, f"The hard link {member.shown} to")
        if not target:
            raise InvalidArgument(f"The hard link {member.shown} of the archive leads to no file.")
        try:
            source = self._targets.find(target[:-1])
            present = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
        except FileNotFoundError:
            raise InvalidArgument(f"The hard link {member.shown} leads to nothing before it in the archive.") from None
        if (self._targets.place, target[-1]) == (self._walk.place, name):
            return
        if stat.S_ISDIR(present.st_mode):
            raise InvalidArgument(f"The hard link {member.shown} of the archive leads to a directory.")
        os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _dress(self, parent: int, name: bytes, member: Member) -> None:
        os.chown(name, *_owner(member), dir_fd=parent, follow_symlinks=False)
        if member.kind != tarstream.SYMLINK:
            os.chmod(name, member.mode, dir_fd=parent)
        # There is no setxattrat(2) before Linux 6.13; the last component is not followed.
        for key, value in member.xattrs.items():
            path = b"/proc/self/fd/%d/%s" % (parent, name)
            os.setxattr(path, _xattr_name(key, member), value, follow_symlinks=False)
        os.utime(name, ns=(member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    def _dress_directory(self, path: tuple[bytes, ...], member: Member) -> None:
        try:
            descriptor = self._walk.find(list(path))
        except (FileNotFoundError, InvalidArgument):
            return  # a later entry of the archive took its place
        if self._walk.place != path:
            return  # a symlink did
        os.fchown(descriptor, *_owner(member))
        os.fchmod(descriptor, member.mode)
        for key, value in member.xattrs.items():
            os.setxattr(descriptor, _xattr_name(key, member), value)
        os.utime(descriptor, ns=(member.mtime, member.mtime))

    def _whiteout(self, parent: int, path: tuple[bytes, ...]) -> None:
        name = path[-1]
        if name == _OPAQUE_MARK:
            os.setxattr(parent, OPAQUE, b"y")
            return
        if name.startswith(_AUFS):
            return  # notes that aufs kept for itself, no files of the image
        hidden = name.removeprefix(_WHITEOUT)
        if hidden in {b"", b".", b".."}:
            raise InvalidArgument(f"The whiteout {show(b'/'.join(path))} of the archive names no file.")
        target = (*path[:-1], hidden)
        self._whiteouts.add(target)
        try:
            os.mknod(hidden, stat.S_IFCHR, WHITEOUT_DEVICE, dir_fd=parent)
        except FileExistsError:
            # A whiteout hides what lower layers have; what this layer has itself stays.
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                self._set_opaque(target)

    def _set_opaque(self, path: tuple[bytes, ...]) -> None:
        os.setxattr(self._walk.enter(list(path)), OPAQUE, b"y")

    def _clear(self, parent: int, name: bytes) -> None:
        """Make room for an entry: a later one of the same name wins."""
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            self._targets.forget()
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)


def _owner(member: Member) -> tuple[int, int]:
    """Numeric owner; the highest number means `leave it` to chown(2), so it is no owner."""
    for number in (member.uid, member.gid):
        if not 0 <= number < 0xFFFFFFFF:
            raise InvalidArgument(f"Entry {member.shown} of the archive has the impossible owner {number}.")
    return member.uid, member.gid


def _xattr_name(key: bytes, member: Member) -> bytes:
    if key.startswith(_OVERLAY_XATTR):
        raise InvalidArgument(
            f"Entry {member.shown} of the archive has the attribute {show(key)}, which would direct the host's overlay."
        )
    return key


@contextmanager
def _entry_errors(member: Member, root: int) -> Iterator[None]:
    """What the kernel says of an entry, in the taxonomy."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"Entry {member.shown} of the archive cannot be made: {error}.") from error
    except OSError as error:
        # ext4 also says ENOSPC of an attribute too large for its inode, on a disk with room.
        if error.errno in _DISK_FULL and not (member.xattrs and os.fstatvfs(root).f_bavail):
            raise ResourceExhausted(
                f"The disk is full at entry {member.shown}; free space, then send the layer again.", resource="disk"
            ) from error
        if error.errno in _BAD_ENTRY | _DISK_FULL:
            raise InvalidArgument(f"Entry {member.shown} of the archive cannot be made: {error.strerror}.") from error
        raise SubstrateFailed(
            f"Entry {member.shown} could not be written: {error.strerror}.", step="storage.putLayer"
        ) from error
