"""Who a process runs as, looked up in its own root filesystem, which its image's author controls.

So nothing here follows a link out of it, opens a FIFO, which may block, or a device, of which nobody knows what it does
then, or reads more than a sane file holds.
Source: passwd(5), group(5); the forms `name|uid[:group|gid]` are those of the OCI image spec's `User`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument
from portlayer.substrates.linux import kernel

_LARGEST_ID = 2**31 - 1
_LARGEST_FILE = 1 << 20


class User(Value):
    """Resolved ids; `home` is `/` where nothing is known of the user."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve(rootfs: str, user: str) -> User:
    """*user*, `name|uid[:group|gid]` or "" for root, as the files in *rootfs* have it.

    Raises InvalidArgument where a name is not there, or a number is too large.
    """
    name, _, group = user.partition(":")
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        entry = _account(root, name or "0")
        uid, gid, home, login = entry or (_number(name, "user"), 0, "/", "")
        if group:
            return User(uid=uid, gid=_group(root, group), home=home)
        memberships = tuple(number for _, number, members in _groups(root) if login and login in members)
        return User(uid=uid, gid=gid, home=home, groups=memberships)
    finally:
        os.close(root)


def make_directory(rootfs: str, path: str, owner: User) -> None:
    """Make *path* in *rootfs*, with what leads to it, for *owner*; one that is there is left as it is."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _is_directory(root, path):
            return
        parent = ""
        for part in [part for part in path.split("/") if part not in {"", "."}]:
            here = kernel.openat2(root, parent or ".", os.O_PATH | os.O_DIRECTORY)
            try:
                os.mkdir(part, 0o755, dir_fd=here)
                os.chown(part, owner.uid, owner.gid, dir_fd=here, follow_symlinks=False)
            except FileExistsError:
                pass
            finally:
                os.close(here)
            parent = f"{parent}/{part}"
    except OSError as error:
        raise InvalidArgument(
            f"The working directory {path} cannot be made: {error.strerror}. Choose another.", pointer="/process/cwd"
        ) from error
    finally:
        os.close(root)


def _is_directory(root: int, path: str) -> bool:
    try:
        os.close(kernel.openat2(root, path, os.O_PATH | os.O_DIRECTORY))
    except FileNotFoundError:
        return False
    return True


def _account(root: int, name: str) -> tuple[int, int, str, str] | None:
    for fields in _entries(root, "etc/passwd", 7):
        if (fields[0] == name or fields[2] == name) and fields[2].isdecimal() and fields[3].isdecimal():
            return int(fields[2]), int(fields[3]), fields[5] or "/", fields[0]
    return None


def _groups(root: int) -> Iterator[tuple[str, int, list[str]]]:
    for fields in _entries(root, "etc/group", 4):
        if fields[2].isdecimal():
            yield fields[0], int(fields[2]), fields[3].split(",")


def _group(root: int, group: str) -> int:
    known = next((number for name, number, _ in _groups(root) if name == group), None)
    return _number(group, "group") if known is None else known


def _number(text: str, kind: str) -> int:
    if text == "":
        return 0
    if not text.isascii() or not text.isdecimal():
        raise InvalidArgument(
            f"The image has no {kind} {text[:100]!r}; use one that it has, or a number.", pointer="/process/user"
        )
    if int(text) > _LARGEST_ID:
        raise InvalidArgument(f"{text[:100]} is no {kind} id: the largest is {_LARGEST_ID}.", pointer="/process/user")
    return int(text)


def _entries(root: int, path: str, fields: int) -> Iterator[list[str]]:
    for line in _read(root, path).splitlines():
        entry = line.split(":")
        if len(entry) >= fields:
            yield entry


def _read(root: int, path: str) -> str:
    try:
        found = kernel.openat2(root, path, os.O_PATH)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return ""
        descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)
    try:
        return os.read(descriptor, _LARGEST_FILE).decode(errors="replace")
    finally:
        os.close(descriptor)
