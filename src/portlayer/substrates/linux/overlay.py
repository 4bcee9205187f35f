"""The overlay mount of a container's root filesystem. Source: the kernel's filesystems/overlayfs.rst."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from portlayer.model.errors import Unavailable
from portlayer.substrates.linux import mounts

OPAQUE = "trusted.overlay.opaque"

_PAGE = os.sysconf("SC_PAGE_SIZE")
_OPTIONS = "index=off,metacopy=off,redirect_dir=nofollow"
"""What is written stays a plain tree of whole files, so that it can be archived, and no attribute in an image can lead
a lookup elsewhere. Not `volatile`: it would turn the fsync of a database in a container into a lie, and what was
written would be lost in a crash of the host. It saves time at unmount alone, which is done in the background."""


def lowers(layers: Sequence[Path]) -> list[Path]:
    """The trees to stack, from the topmost down, for *layers* from the lowest up.

    One that stands in an image twice counts at its topmost place: below it changes nothing, and overlayfs refuses it.
    Nothing shows through a layer with an opaque root, which overlayfs does not look at.
    """
    stack: list[Path] = []
    for layer in dict.fromkeys(reversed(layers)):
        stack.append(layer)
        if _is_opaque(layer):
            break
    return stack


def make_skeleton(directory: Path) -> None:
    """What the runtime mounts on in every container, as its lowest layer: it need not be made in each one anew."""
    for name in ("dev", "proc", "sys", "etc"):
        (directory / name).mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in ("hosts", "hostname", "resolv.conf"):
        (directory / "etc" / name).touch(mode=0o644)
    directory.chmod(0o755)


def mount(source: str, target: Path, lowers: Sequence[Path], container: Path) -> None:
    """Mount at *target* what `lowers` gave, with `upper` and `work` of *container* on top; raises OSError."""
    upper, work = container / "upper", container / "work"
    if not work.exists():
        _make_upper(upper, lowers[0])
        work.mkdir(mode=0o700)
    options = _options([str(layer) for layer in lowers], str(upper), str(work))
    if len(options) < _PAGE and not any(_is_special(path) for path in (upper, lowers[0])):
        mounts.mount(source, target, "overlay", options)
        return
    # mount(2) takes one page of options: descriptors make short names for many layers, and plain ones for odd paths.
    opened: list[int] = []
    try:
        opened.extend(os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (upper, work, *lowers))
        upper_name, work_name, *names = (f"/proc/self/fd/{descriptor}" for descriptor in opened)
        mounts.mount(source, target, "overlay", _options(names, upper_name, work_name))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def probe(source: str, directory: Path) -> None:
    """Make and take away an overlay in the empty *directory*; raises Unavailable where this host cannot."""
    try:
        lower, merged = directory / "lower", directory / "merged"
        lower.mkdir()
        merged.mkdir()
        mount(source, merged, [lower], directory)
        held = unmount(merged)
        if held is not None:
            os.close(held)
    except OSError as error:
        raise Unavailable(
            f"An overlay cannot be mounted in {directory}: {error.strerror}. Run as root on a kernel with overlayfs, "
            "and keep PORTLAYER_STATE on ext4, xfs, btrfs or tmpfs, not on an overlay."
        ) from error


def unmount(target: Path) -> int | None:
    """Take the mount at *target* out of the tree; a descriptor that holds what is left of it, None where none was.

    Closing the descriptor makes the kernel write the filesystem below to disk, which takes as long as it takes: do it
    where nobody waits.
    """
    if not mounts.is_mounted(target):
        return None
    try:
        held = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        if mounts.detach(target):
            return held
    except OSError:
        os.close(held)
        raise
    os.close(held)
    return None


def _is_opaque(directory: Path) -> bool:
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError as error:
        if error.errno == errno.ENODATA:
            return False
        raise


def _make_upper(upper: Path, topmost: Path) -> None:
    """The root directory of the container shows the mode and owner of upper: they are those of the image."""
    upper.mkdir(mode=0o700, exist_ok=True)
    image = topmost.stat()
    os.chown(upper, image.st_uid, image.st_gid)
    upper.chmod(stat.S_IMODE(image.st_mode))


def _options(lowers: Sequence[str], upper: str, work: str) -> str:
    return f"lowerdir={':'.join(lowers)},upperdir={upper},workdir={work},{_OPTIONS}"


def _is_special(path: Path) -> bool:
    return any(character in str(path) for character in ',:\\"')
