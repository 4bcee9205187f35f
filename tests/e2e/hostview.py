"""What one instance has on this host, read from the kernel and its directories, without any code of the port layer."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_ANNOTATION = "dev.portlayer.container"


@dataclass(frozen=True)
class Process:
    """The first process of an incarnation: whose, whether it is held still, and what addresses it has."""

    container: str
    pid: int
    frozen: bool
    addresses: frozenset[str]


class HostView:
    """directory: of the instance; its state and run are below."""

    def __init__(self, directory: Path) -> None:
        self.state, self.run = directory / "state", directory / "run"

    @property
    def instance(self) -> str:
        return (self.state / "instance").read_text().strip()

    def mounted(self) -> set[str]:
        """Containers whose root filesystem is mounted."""
        targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        prefix = f"{self.run}/live/containers/"
        return {target.removeprefix(prefix).partition("/")[0] for target in targets if target.startswith(prefix)}

    def groups(self) -> set[str]:
        """Incarnations that have a control group."""
        return {path.name for parent in self._parents() for path in _entries(parent) if path.is_dir()}

    def incarnations(self) -> dict[str, str]:
        """Those that have a directory, with their containers; "" where one was hardly begun."""
        return {path.name: _container(path) for path in _entries(self.run / "live" / "incarnations")}

    def processes(self) -> list[Process]:
        """The first process of each incarnation that has any."""
        made = self.incarnations()
        found = [(name, self._first(name)) for name in self.groups()]
        return [self._process(made.get(name, name), name, pid) for name, pid in found if pid]

    def holders(self) -> int:
        """How many shims there are."""
        marks = os.fsencode(self.run)
        return sum(1 for line in _commands() if marks in line and b"portlayer-shim" in line.split(b"\0")[0])

    def links(self, kind: str) -> set[str]:
        """Links of ours; kind: the letter that tells a bridge from a container's end."""
        prefix = f"pl{self.instance[:4]}{kind}"
        return {name for _, name in socket.if_nameindex() if name.startswith(prefix)}

    def tables(self) -> set[str]:
        listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
        return {line for line in listed.stdout.splitlines() if self.instance in line}

    def published(self) -> set[str]:
        """Endpoints that ports of the host lead to."""
        command = ["nft", "list", "table", "inet", f"portlayer_{self.instance}"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)  # there may be none
        return set(re.findall(r'comment "(\w+)" :', listed.stdout))

    def trees(self, area: str) -> set[str]:
        """Names in an area of the state directory."""
        return {entry.name for entry in _entries(self.state / area)}

    def disks(self) -> set[str]:
        """Volumes that are on a loop device."""
        marks = f"{self.state}/"
        backing = [_text(path) for path in Path("/sys/block").glob("loop*/loop/backing_file")]
        return {Path(path).parent.name for path in backing if path.startswith(marks)}

    def _parents(self) -> Iterator[Path]:
        """This instance's part of every hierarchy, of v1 and of v2."""
        for above in ("", "*/"):
            yield from _GROUPS.glob(f"{above}portlayer-{self.instance}")

    def _first(self, incarnation: str) -> int:
        for parent in self._parents():
            pids = sorted(int(pid) for pid in _text(parent / incarnation / "cgroup.procs").split())
            if pids and pids[0]:
                return pids[0]
        return 0

    def _process(self, container: str, incarnation: str, pid: int) -> Process:
        states = ("freezer.state", "cgroup.freeze")
        frozen = {_text(parent / incarnation / name) for parent in self._parents() for name in states}
        try:
            routes = Path(f"/proc/{pid}/net/fib_trie").read_text()
        except OSError:
            routes = ""
        return Process(
            container=container, pid=pid, frozen=bool(frozen & {"FROZEN", "1"}), addresses=_local_addresses(routes)
        )


def _entries(directory: Path) -> list[Path]:
    """What is in *directory*; nothing, where that goes meanwhile, which glob would not take."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _container(incarnation: Path) -> str:
    try:
        annotations = json.loads((incarnation / "config.json").read_text())["annotations"]
    except (OSError, ValueError, KeyError):
        return ""
    return str(annotations.get(_ANNOTATION, ""))


def _commands() -> list[bytes]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    return found


def _local_addresses(trie: str) -> frozenset[str]:
    """fib_trie names an address on one line, and says on the next that it is the host's own."""
    lines = trie.splitlines()
    found = {line.split()[-1] for line, below in itertools.pairwise(lines) if "/32 host LOCAL" in below}
    return frozenset(address for address in found if not address.startswith("127."))
