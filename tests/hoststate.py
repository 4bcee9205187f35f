"""What of a host tests could leave behind, read from the kernel alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_SECONDS = 15.0
CGROUPS = "/sys/fs/cgroup"
_LEVELS = 3
PROGRAMS = ("portlayer-shim", "crun", "runc", "portlayer", "etcd")


def _mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _links() -> set[str]:
    return {entry.name for entry in Path("/sys/class/net").iterdir()}


def _namespaces() -> set[str]:
    named = Path("/run/netns")
    return {entry.name for entry in named.iterdir()} if named.is_dir() else set()


def cgroups() -> set[str]:
    """Read by os.walk, which unlike glob does not mind that one goes meanwhile."""
    found = set()
    for folder, names, _ in os.walk(CGROUPS):
        found |= {f"{folder}/{name}" for name in names if "portlayer" in name}
        if folder.count("/") - CGROUPS.count("/") >= _LEVELS - 1:
            names.clear()
    return found


def disks() -> set[str]:
    """Files on loop devices, which all hosts of a kernel see: in a worker of pytest, those of its tests."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    marks = (f"/popen-{worker}/",) if worker else ("portlayer", "pytest")
    found = set()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found.add(path.read_text().strip())
    return {path for path in found if any(mark in path for mark in marks)}


def _tables() -> set[str]:
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False)
    return set(listed.stdout.splitlines())


def _processes() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        words = {Path(word.decode(errors="replace")).name for word in command[:2]}
        if words & set(PROGRAMS) or any(b"portlayer.substrates" in word for word in command):
            found.add(f"{entry.name} {b' '.join(command[:4]).decode(errors='replace')}")
    return found


KINDS: dict[str, Callable[[], set[str]]] = {
    "mount": _mounts,
    "link": _links,
    "network namespace": _namespaces,
    "cgroup": cgroups,
    "nft table": _tables,
    "disk on a loop device": disks,
    "process": _processes,
}


def picture() -> dict[str, set[str]]:
    """All of it, now."""
    return {kind: read() for kind, read in KINDS.items()}


def left_since(before: dict[str, set[str]]) -> list[str]:
    """What is there and was not in *before*, a line each. The kernel takes links and namespaces down a little later:
    it is given time for that."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        now = picture()
        left = [f"{kind} {name}" for kind, names in now.items() for name in sorted(names - before[kind])]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)
