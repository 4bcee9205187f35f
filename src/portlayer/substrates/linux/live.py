"""The tmpfs that everything lives on which a reboot may clear (see paths)."""

from __future__ import annotations

from portlayer.substrates.linux import kernel, mounts
from portlayer.substrates.linux.names import records
from portlayer.substrates.linux.paths import Paths


def open_live(paths: Paths) -> None:
    """Mount it where it is not, and make its directories; raises OSError.

    It is shared, so that root filesystems that are mounted in it later appear in the spawner's mount namespace, also on
    a host whose root is private.
    """
    paths.live.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not mounts.is_mounted(paths.live):
        mounts.mount(paths.mount_source, paths.live, "tmpfs", "mode=0700")
        kernel.mount("", str(paths.live), kernel.MS_SHARED)
    make_directories(paths)


def make_directories(paths: Paths) -> None:
    """Its directories, mounted or not: for who only looks around."""
    names = (paths.names / kind for kind in (records.NETWORKS, records.INCARNATIONS))
    for directory in (paths.mounted, paths.leaving, paths.incarnations, paths.exits, *names):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
