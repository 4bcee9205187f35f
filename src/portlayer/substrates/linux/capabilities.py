"""Capabilities of a container's process: Docker's default set, and what the caller adds and drops.

Source: the default set of moby.
"""

from __future__ import annotations

import functools
from pathlib import Path

from portlayer.model.capabilities import NAMES, full_name
from portlayer.model.errors import Unsupported
from portlayer.model.execution import Capabilities

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

    Raises Unsupported for one that the host cannot give.
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
    found = frozenset(full_name(name) for name in names)
    return found - {"ALL"} | everything if "ALL" in found else found
