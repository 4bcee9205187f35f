"""Where the Linux substrate keeps what, on one host.

state/                              lasts over reboots
├── layers/<hex of the diffID>/     fs (the tree, as overlayfs reads it), size (bytes it takes, decimal)
├── containers/<id>/                upper, work (overlayfs's own), log (what the container wrote),
│                                   hosts.<incarnation>, resolv.conf.<incarnation>, hostname.<incarnation>
├── volumes/<id>/                   data/ (content of a volume), or disk (see disks), where it has a capacity
├── staging/                        layers being unpacked; emptied at start
├── trash/                          what is being deleted; emptied at start
└── skeleton/                       lowest layer of every container: what the runtime mounts on
run/                                goes with a reboot
└── live/                           a tmpfs of our own, passed on to other mount namespaces
    ├── containers/<id>/rootfs/     mounted root filesystem
    ├── leaving/<id>.<random>/      the same of a container that was removed, until it is unmounted
    ├── incarnations/<incarnation>/ what one start of a container needs
    ├── exits/<incarnation>         exit codes
    └── names/                      what the name server knows (see names.records)

A container's life makes and removes some twenty small files: on a tmpfs they cost nothing, on ext4, which avoids inodes
that were freed lately, they cost a sixth of all CPU time.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument


class Paths(Value, dict=True):
    """state, run: absolute directories of this instance alone. instance: its id, 8 hex digits."""

    state: Path
    run: Path
    instance: str

    @cached_property
    def mount_source(self) -> str:
        """The source that every overlay of this instance shows in mountinfo."""
        return f"portlayer-{self.instance}"

    @cached_property
    def layers(self) -> Path:
        return self.state / "layers"

    @cached_property
    def containers(self) -> Path:
        return self.state / "containers"

    @cached_property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @cached_property
    def staging(self) -> Path:
        return self.state / "staging"

    @cached_property
    def trash(self) -> Path:
        return self.state / "trash"

    @cached_property
    def mounted(self) -> Path:
        """The directory of all mounted root filesystems."""
        return self.live / "containers"

    @cached_property
    def leaving(self) -> Path:
        """The directory of those that are to be unmounted."""
        return self.live / "leaving"

    @cached_property
    def skeleton(self) -> Path:
        return self.state / "skeleton"

    @cached_property
    def live(self) -> Path:
        return self.run / "live"

    @cached_property
    def incarnations(self) -> Path:
        return self.live / "incarnations"

    @cached_property
    def exits(self) -> Path:
        return self.live / "exits"

    @cached_property
    def names(self) -> Path:
        return self.live / "names"

    def layer(self, diff_id: str) -> Path:
        """Directory of a layer; raises InvalidArgument where *diff_id* is not `sha256:<64 hex digits>`."""
        algorithm, _, digits = diff_id.partition(":")
        if algorithm != "sha256" or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
            raise InvalidArgument(f"{diff_id[:100]!r} is no diffID; it looks like sha256:<64 hex digits>.")
        return self.layers / digits

    def container(self, container: str) -> Path:
        """Directory of what lasts of a container."""
        return self.containers / component(container)

    def log(self, container: str) -> Path:
        return self.container(container) / "log"

    def host_file(self, container: str, incarnation: str, name: str) -> Path:
        """The one called *name* of hostfiles.NAMES. A container can write to it without end, so it is where the rest of
        what it writes is, and not on the tmpfs."""
        return self.container(container) / f"{name}.{component(incarnation)}"

    def rootfs(self, container: str) -> Path:
        """Where the root filesystem of a container is mounted."""
        return self.mounted / component(container) / "rootfs"

    def incarnation(self, incarnation: str) -> Path:
        return self.incarnations / component(incarnation)

    def volume(self, volume: str) -> Path:
        """Directory with the content of a volume without a capacity."""
        return self.volumes / component(volume) / "data"

    def disk(self, volume: str) -> Path:
        """File with the content of a volume that has a capacity."""
        return self.volumes / component(volume) / "disk"


def component(name: str) -> str:
    """*name*, which is one part of a path; raises InvalidArgument where it is not."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise InvalidArgument(f"{name[:100]!r} is no id.")
    return name
