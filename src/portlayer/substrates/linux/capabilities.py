"""Capabilities of a container's process: Docker's default set, and what the caller adds and drops.

Sources: capabilities(7) and its numbers in linux/capability.h; the default set of moby.
"""

from __future__ import annotations

import functools
from pathlib import Path

from portlayer.model.errors import InvalidArgument, Unsupported
from portlayer.model.execution import Capabilities

# By number.
NAMES = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
        *("LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER"),
        *("SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE"),
        *("SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
        *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
        "CHECKPOINT_RESTORE",
    )
)
DEFAULT = frozenset(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE"),
        *("NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"),
    )
)
_POINTER = "/process/capabilities"


@functools.cache
def of_host() -> frozenset[str]:
    """What we may hand on: our own bounding set."""
    status = Path("/proc/self/status").read_text()
    bits = int(status.partition("CapBnd:")[2].split()[0], 16)
    return frozenset(name for number, name in enumerate(NAMES) if bits >> number & 1)


@functools.lru_cache(maxsize=256)
def resolve(difference: Capabilities, host: frozenset[str]) -> frozenset[str]:
    """The default set with *difference* applied; `ALL` adds what the host has, or drops everything.

    Raises InvalidArgument for an unknown name, Unsupported for one that the host cannot give.
    """
    added = _named(difference.add, host)
    missing = sorted(added - host)
    if missing:
        raise Unsupported(
            f"This host has no {', '.join(missing)} to give; leave it out, or run the port layer with it.",
            option=missing[0],
            pointer=f"{_POINTER}/add",
        )
    return ((DEFAULT & host) - _named(difference.drop, frozenset(NAMES))) | added


def _named(names: tuple[str, ...], everything: frozenset[str]) -> frozenset[str]:
    found: set[str] = set()
    for name in names:
        upper = name.upper()
        full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if upper == "ALL":
            found |= everything
        elif full in NAMES:
            found.add(full)
        else:
            raise InvalidArgument(f"{name[:100]!r} is no capability; see capabilities(7).", pointer=_POINTER)
    return frozenset(found)
