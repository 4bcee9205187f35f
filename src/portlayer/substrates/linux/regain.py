"""Mounting again the root filesystem that a process still has, and that somebody has taken away from the host.

A second overlay over the same `upper` and `work` would harm both. So the very same one is mounted again. A mount can be
cloned only by who is in its mount namespace: a thread goes there, which ends with that, for it cannot share its root
directory with others any more. The clone belongs to no namespace until it is attached.

Sources: setns(2), open_tree(2), move_mount(2), mount_setattr(2), the kernel's filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from portlayer.substrates.linux import kernel, mounts, process
from portlayer.substrates.linux.process import Process


def regain(owner: Process, source: str, target: Path) -> bool:
    """Mount at *target* the overlay, of *source*, that is the root of *owner*; False where that has ended.

    Raises OSError where its root is another, or the kernel refuses.
    """
    namespace = _namespace(owner)
    if namespace is None:
        return False
    try:
        with ThreadPoolExecutor(1, "visitor") as thread:
            clone = thread.submit(_clone_root, namespace, source).result()
    finally:
        os.close(namespace)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.fstatvfs(clone).f_flag & os.ST_RDONLY:  # of the container, which shall not write to it
            kernel.clear_mount(clone, kernel.MOUNT_ATTR_RDONLY)
        kernel.attach_mount(clone, str(target))
    finally:
        os.close(clone)
    return True


def _namespace(owner: Process) -> int | None:
    """A descriptor of the mount namespace of this very process; None where it has ended."""
    try:
        namespace = os.open(f"/proc/{owner.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if process.is_alive(owner):
        return namespace
    os.close(namespace)
    return None


def _clone_root(namespace: int, source: str) -> int:
    """A descriptor of a clone of the root of *namespace*. Only in a thread that does nothing after it."""
    home = os.open("/proc/thread-self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # there is another /proc inside
    try:
        kernel.unshare(kernel.CLONE_FS)
        kernel.setns(namespace, kernel.CLONE_NEWNS)
        there = mounts.read(os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=home))
    finally:
        os.close(home)
    clone = kernel.clone_mount("/")
    if _is_ours(os.fstat(clone).st_dev, there, source):
        return clone
    os.close(clone)
    raise OSError(errno.EXDEV, "the container has another root by now")


def _is_ours(device: int, there: list[mounts.Mount], source: str) -> bool:
    """Whether *device* is what was mounted for the container: where it may, it can have changed its root since."""
    return mounts.Mount(Path("/"), "overlay", source, device, "/") in there
