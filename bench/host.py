"""The machine, and what the benchmark may have left on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from bench.jail import cgroups


def facts() -> dict[str, str]:
    """What a reader needs to judge the numbers."""
    release = platform.freedesktop_os_release()
    mounts = {line.split(" - ")[1].split()[0] for line in _mounts() if " - cgroup" in line}
    return {
        "kernel": platform.release(),
        "system": release.get("PRETTY_NAME", release["ID"]),
        "cores": str(os.cpu_count()),
        "cgroups": " and ".join(sorted({"cgroup": "v1", "cgroup2": "v2"}[kind] for kind in mounts)),
        "python": platform.python_version(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def leftovers(directory: Path) -> list[str]:
    """Mounts, cgroups and processes of the run in *directory*, a line each. Links and rules end with their jail."""
    name = directory.name
    found = [f"mount {line.split()[4]}" for line in _mounts() if name in line]
    found += [f"cgroup {path}" for path in cgroups(f"{name}-*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if name in command:
            found.append(f"process {process.name}: {command[:80]}")
    return found


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()
