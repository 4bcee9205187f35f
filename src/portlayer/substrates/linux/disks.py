"""Disks: the volumes that have a capacity, each a sparse file with ext4 on it.

A disk is mounted for a start, in the spawner's mount namespace, and taken away there once the container has its own
mount of it. So the last container that uses a disk unmounts it by its end, and the kernel then lets go of the loop
device: nothing has to be remembered, or looked after when a process of ours has died.

Two loop devices over one file would destroy what is on it: one that is there is used again.
Sources: loop(4), linux/loop.h, mke2fs(8), ext4(5).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from pathlib import Path

from portlayer.model.errors import ResourceExhausted, SubstrateFailed
from portlayer.substrates.linux import mounts
from portlayer.substrates.linux.runtime import find_program

MKFS = "mkfs.ext4"
CONTENT = "data"
"""The directory of a disk that containers see: ext4 keeps a lost+found beside it."""
_CONTROL = "/dev/loop-control"
_CONFIGURE, _GET_STATUS, _GET_FREE = 0x4C0A, 0x4C05, 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
_STATUS = struct.Struct("=5Q4I64s64s32s2Q")  # struct loop_info64
_CONFIG = struct.Struct(f"=2I{_STATUS.size}s64x")  # struct loop_config
_TRIES = 100
_MKFS_SECONDS = 600.0
# No block is kept for root, or for a larger size. What reads as zero, as all of a new file does, need not be written.
_LAYOUT = ("-q", "-F", "-m", "0", "-O", "^resize_inode", "-E", "lazy_itable_init=0,lazy_journal_init=1")
# What is deleted in a volume is given back to the host. Where the host has no block left, nothing more is written.
_OPTIONS = "errors=remount-ro,discard"


def lack() -> str:
    """What this host lacks for disks, with its remedy; "" for nothing."""
    if not find_program(MKFS):
        return f"there is no {MKFS}: apt install e2fsprogs"
    try:
        os.close(os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_CONTROL} cannot be opened ({error.strerror}): modprobe loop, or give it to the port layer"
    return ""


def make(disk: Path, capacity_bytes: int, scratch: Path) -> None:
    """Make *disk*, durably. scratch: an empty directory.

    Raises ResourceExhausted where it does not fit, SubstrateFailed, OSError.
    """
    with disk.open("xb") as file:
        try:
            file.truncate(capacity_bytes)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            raise ResourceExhausted(
                f"The file system of the volumes holds no file of {capacity_bytes} bytes.", resource="disk"
            ) from error
        content = scratch / CONTENT
        content.mkdir()
        content.chmod(0o755)
        done = subprocess.run(
            [find_program(MKFS) or MKFS, *_LAYOUT, "-d", str(scratch), str(disk)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_MKFS_SECONDS,
            check=False,
        )
        if done.returncode:
            if os.strerror(errno.ENOSPC) in done.stderr:
                raise ResourceExhausted("The disk is full; free space and try again.", resource="disk")
            reason = done.stderr.strip()[-500:]
            raise SubstrateFailed(f"{MKFS} failed: {reason}", step="storage.makeVolume")
        os.fsync(file.fileno())


def mount(disk: Path, target: Path) -> int:
    """Mount *disk* at *target*, which is made; a descriptor that keeps it mounted, wherever else it goes.

    The last to let go of a disk waits until all is written: a container would take as long to end. So let go of the
    descriptor after its end, and where nobody waits. Raises OSError.
    """
    target.mkdir(mode=0o700, parents=True)
    backing = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
    try:
        device, name = _attached(backing, disk) or _attach(backing)
    finally:
        os.close(backing)
    try:
        mounts.mount(name, target, "ext4", _OPTIONS)
    finally:
        os.close(device)  # from here on the mount keeps the device
    return os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _attached(backing: int, disk: Path) -> tuple[int, str] | None:
    """The loop device that has the file *backing* already, held open so that it stays."""
    file = os.fstat(backing)
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if disk.parent.name not in entry.read_text():
                continue
            name = f"/dev/{entry.parts[3]}"
            device = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # let go of meanwhile
            continue
        if _is_of(device, file):
            return device, name
        os.close(device)
    return None


def _is_of(device: int, file: os.stat_result) -> bool:
    try:
        found = _STATUS.unpack(fcntl.ioctl(device, _GET_STATUS, bytes(_STATUS.size)))
    except OSError:
        return False
    return (found[0], found[1]) == (file.st_dev, file.st_ino)


def _attach(backing: int) -> tuple[int, str]:
    """A free loop device with *backing* on it, held open: it is let go of with whoever uses it last."""
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            name = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            try:
                return _taken(name, backing), name
            except OSError as error:
                if error.errno not in {errno.EBUSY, errno.ENXIO}:  # somebody else was faster, or even done with it
                    raise
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device is free")


def _taken(name: str, backing: int) -> int:
    """The free device *name*, with *backing* on it."""
    writable = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    try:
        _configure(writable, backing)
        # Some kernels mount nothing that anybody has open for writing.
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def _configure(device: int, backing: int) -> None:
    try:
        fcntl.ioctl(device, _CONFIGURE, _config(backing, _AUTOCLEAR | _DIRECT_IO))
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system or kernel has no direct I/O for it
            raise
        fcntl.ioctl(device, _CONFIGURE, _config(backing, _AUTOCLEAR))


def _config(backing: int, flags: int) -> bytes:
    status = _STATUS.pack(*(0,) * 8, flags, b"", b"", b"", 0, 0)
    return _CONFIG.pack(backing, 0, status)
