"""A host of its own for one worker of pytest: processes, mounts, links, cgroups, /tmp and /run that nobody else sees.

    python worker.py DIRECTORY KEPT ARGUMENT...

runs `python ARGUMENT...` there, below an init that reaps, and cleans up after it. In DIRECTORY it has a directory, for
what is written to /tmp and /run. KEPT, paths with colons between, stay what they are where they are in /tmp or /run.
It dies with this process; whoever kills that one calls `tidy`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from portlayer.substrates.linux import kernel

CGROUPS = Path("/sys/fs/cgroup")
PRIVATE = ("tmp", "run")
UNSHARE = ("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc")
BETWEEN, INSIDE = "--between", "--inside"
PROGRAMS = ("unshare", "mount", "ip", "tini")
PATIENCE_SECONDS = 10.0
_CLONE_NEWCGROUP = 0x0200_0000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Hierarchy:
    """Cgroups that are mounted. controllers: of v1, with commas between; none is v2. own: the group we are in."""

    mount: Path
    controllers: str
    own: Path

    @property
    def home(self) -> Path:
        """Where groups of workers go: below our own, so that its limits hold. A group of v2 that has processes cannot
        hand its controllers on, so there it is the top."""
        return self.own if self.controllers else self.mount


def hierarchies() -> list[Hierarchy]:
    """Those of this host, each once."""
    groups = _own_groups()
    found = {}
    for place, kind, options in _mounts():
        if kind in {"cgroup", "cgroup2"} and place.is_relative_to(CGROUPS):
            controllers = next((names for names in groups if names and options.issuperset(names.split(","))), "")
            own = Path(f"{place}{groups.get(controllers, '/')}")
            found[place] = Hierarchy(place, controllers, own if own.is_dir() else place)
    return list(found.values())


def _own_groups() -> dict[str, str]:
    """The path of our group by controllers, as cgroups(7) has them; by "" that of v2."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}


def _mounts() -> Iterator[tuple[Path, str, set[str]]]:
    """Where, what kind of file system, and its options: see proc(5) on mountinfo."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, file_system = line.partition(" - ")
        kind, _, options = file_system.split(" ")
        yield Path(mount.split(" ")[4]), kind, set(options.split(","))


def tidy(prefix: str) -> None:
    """Remove the groups of workers whose names start with *prefix*, and whose processes are dead or dying."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for hierarchy in hierarchies():
        for group in hierarchy.home.glob(f"{prefix}*"):
            while not _removed(group) and time.monotonic() < deadline:
                time.sleep(0.01)


def _removed(group: Path) -> bool:
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
    except OSError:
        return not group.exists()
    return True


def _make_group(hierarchy: Hierarchy, name: str) -> Path:
    """The worker's group, with all that its parent has."""
    home, group = hierarchy.home, hierarchy.home / name
    if home == CGROUPS:
        for controller in (home / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (home / "cgroup.subtree_control").write_text(f"+{controller}")
    group.mkdir()
    for file in ("cpuset.cpus", "cpuset.mems"):  # v1 takes no process before it is told these
        if hierarchy.controllers and (home / file).exists():
            (group / file).write_text((home / file).read_text())
    return group


def outside(directory: Path, kept: str, arguments: Sequence[str]) -> int:
    """Run the worker, in a session of its own: what a terminal sends comes here, and ends its host at once."""
    own = Path(tempfile.mkdtemp(dir=directory))
    name = f"{directory.name}-{own.name}"
    try:
        for hierarchy in hierarchies():
            _make_group(hierarchy, name)
        command = [sys.executable, __file__, BETWEEN, name, str(own), kept, *arguments]
        process = subprocess.Popen(command, start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: process.kill())
        return process.wait()
    finally:
        tidy(name)
        shutil.rmtree(own)


def between(name: str, words: Sequence[str]) -> None:
    """Join the groups *name*, which are the top of all that is seen from now on, and leave the other namespaces.

    On v2 a top that has controllers for others must have no processes: those that are there get a group below it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    groups = [(hierarchy, hierarchy.home / name) for hierarchy in hierarchies()]
    for _, group in groups:
        (group / "cgroup.procs").write_text("0")
    kernel.unshare(_CLONE_NEWCGROUP)
    for hierarchy, group in groups:
        if not hierarchy.controllers:
            (group / "worker").mkdir()
            (group / "worker" / "cgroup.procs").write_text("0")
    os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, __file__, INSIDE, *words])


def inside(own: Path, kept: str, arguments: Sequence[str]) -> None:
    """As the first process of the new host, make the rest of it."""
    _mount_cgroups(hierarchies())
    for name in PRIVATE:
        _make_private(own / name, Path("/", name), map(Path, kept.split(":")))
    with contextlib.chdir(own):
        for name in PRIVATE:
            kernel.mount(name, f"/{name}", kernel.MS_BIND | kernel.MS_REC)
    _run("ip", "link", "set", "lo", "up")
    os.execvp("tini", ["tini", "--", sys.executable, *arguments])


def _mount_cgroups(there: Iterable[Hierarchy]) -> None:
    """Anew, since they show our groups as the top only then; and so /sys, which has the links of who mounted it."""
    kernel.umount("/sys", kernel.MNT_DETACH)
    _run("mount", "-t", "sysfs", "sysfs", "/sys")
    for hierarchy in there:
        if hierarchy.mount != CGROUPS and not CGROUPS.is_mount():
            _run("mount", "-t", "tmpfs", "-o", "mode=755", "cgroup", str(CGROUPS))
        hierarchy.mount.mkdir(exist_ok=True)
        if hierarchy.controllers:
            _run("mount", "-t", "cgroup", "-o", hierarchy.controllers, "cgroup", str(hierarchy.mount))
            _link_controllers(hierarchy)
        else:
            _run("mount", "-t", "cgroup2", "cgroup2", str(hierarchy.mount))


def _link_controllers(hierarchy: Hierarchy) -> None:
    """Where one hierarchy of v1 has several controllers, each is found by its name too."""
    names = hierarchy.controllers.split(",")
    for name in names if len(names) > 1 else ():
        with contextlib.suppress(FileExistsError):
            (CGROUPS / name).symlink_to(hierarchy.mount.name)


def _make_private(private: Path, place: Path, kept: Iterable[Path]) -> None:
    """What comes to be at *place*, with those of *kept* that are there."""
    private.mkdir()
    private.chmod(place.stat().st_mode & 0o7777)
    for path in kept:
        if place in path.parents and path.is_dir():
            target = private / path.relative_to(place)
            target.mkdir(parents=True, exist_ok=True)
            _run("mount", "--rbind", str(path), str(target))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def main(words: Sequence[str]) -> int:
    for program in PROGRAMS:
        if not shutil.which(program):
            sys.exit(f"there is no {program}")
    if words[0] == BETWEEN:
        between(words[1], words[2:])
    if words[0] == INSIDE:
        inside(Path(words[1]), words[2], words[3:])
    return outside(Path(words[0]), words[1], words[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
