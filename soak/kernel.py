"""What the instance has on the host, read from the kernel and its directories, without any code of the port layer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from soak.server import Server

MARK = "PORTLAYER_SOAK"
Picture = dict[str, set[str]]
_GROUPS = Path("/sys/fs/cgroup")
_TREES = ("containers", "volumes", "staging", "trash", "uploads", "layers")
_LIVE = ("containers", "incarnations", "exits")
_PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.05


def picture(server: Server) -> Picture:
    """All of it, by kind, but for the server process itself."""
    directory = str(server.state.parent)
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "process": set(_processes(directory, server.pid)),
        "mount": {left.split()[4] for left, right in mounts if directory in left or server.instance in right},
        "link": set(_links(server.instance)),
        "namespace": named_namespaces(),
        "cgroup": set(_groups(server.instance)),
        "nft rule": set(_rules(server.instance)),
        "file": set(_files(server)),
    }


def left_since(before: Picture, server: Server) -> list[str]:
    """What is there and is not in *before*, a line each."""
    now = picture(server)
    return [f"{kind} {name}" for kind, names in now.items() for name in sorted(names - before.get(kind, set()))]


def named_namespaces() -> set[str]:
    """Where namespaces are kept without a process."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split()[4] for line in lines if line.partition(" - ")[2].startswith("nsfs")}


async def descriptors(server: Server) -> Counter[str]:
    """What the server has open, by what it is, once that does not change any more."""
    before, now = Counter[str](), _descriptors(server.pid)
    for _ in range(int(_PATIENCE_SECONDS / _PAUSE_SECONDS)):
        if before == now:
            break
        await asyncio.sleep(_PAUSE_SECONDS)
        before, now = now, _descriptors(server.pid)
    return now


def memory(pid: int) -> dict[str, int]:
    """Bytes that a process holds: `rss`, `pss` (shared pages divided among their users), `anonymous`."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines[1:])}
    return {"rss": found["Rss"], "pss": found["Pss"], "anonymous": found["Anonymous"]}


def _descriptors(pid: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found[entry.readlink().as_posix().partition(":[")[0]] += 1
    return found


def _processes(directory: str, server: int) -> Iterator[str]:
    """Those that carry the directory in their command line or environment: monitors, runtimes, containers' own."""
    mark = os.fsencode(directory)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in (server, os.getpid()):
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if mark in command or MARK.encode() + b"=" + mark in (entry / "environ").read_bytes():
                yield f"{entry.name} {command.replace(bytes(1), b' ').decode(errors='replace')[:100]}"


def _links(instance: str) -> Iterator[str]:
    for entry in Path("/sys/class/net").iterdir():
        if entry.name.startswith(f"pl{instance[:4]}"):
            yield entry.name


def _groups(instance: str) -> Iterator[str]:
    for above in ("", "*/"):
        for top in _GROUPS.glob(f"{above}portlayer-{instance}"):
            yield from (path for path, _, _ in os.walk(top))


def _rules(instance: str) -> Iterator[str]:
    """Lines of our tables; elements stand in them."""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    for table in tables.splitlines():
        if instance in table:
            listed = subprocess.run(["nft", "list", *table.split()], capture_output=True, text=True, check=False).stdout
            elements = listed.replace("elements = {", "").replace(",", "\n").splitlines()
            yield from (text for element in elements if (text := element.strip(" \t{}")))


def _files(server: Server) -> Iterator[str]:
    for top, names in ((server.state, _TREES), (server.run / "live", _LIVE)):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield from (f"{name}/{entry.name}" for entry in (top / name).iterdir())
