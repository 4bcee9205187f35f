"""Run a command under the seccomp filters that a unit asks for, as systemd would: `confining.py UNIT COMMAND...`.

Which calls a set such as @system-service has, systemd itself says. Source: systemd.exec(5).
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
MASKED_EQUAL, EQUAL = 7, 4
NAMESPACES = (0x00000080, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x00020000)
"""CLONE_NEW*: time, cgroup, uts, ipc, user, pid, net, mount."""
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17}
_library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
_library.seccomp_init.restype = ctypes.c_void_p


class _Argument(ctypes.Structure):
    _fields_ = (("number", ctypes.c_uint), ("how", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """What is not said otherwise is *default*."""

    def __init__(self, default: int) -> None:
        self._context = ctypes.c_void_p(_library.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, call: str, *arguments: tuple[int, int, int, int]) -> None:
        number = _library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return  # of another architecture
        made = (_Argument * max(1, len(arguments)))(*(_Argument(*each) for each in arguments))
        add = _library.seccomp_rule_add_array
        failed = add(self._context, ctypes.c_uint32(action), number, len(arguments), made)
        assert not failed, (call, os.strerror(-failed))

    def load(self) -> None:
        failed = _library.seccomp_load(self._context)
        assert not failed, os.strerror(-failed)


def expanded(names: Sequence[str]) -> Iterator[str]:
    """The system calls of *names*, some of which are sets."""
    for name in names:
        if name.startswith("@"):
            said = subprocess.run(
                ["systemd-analyze", "syscall-filter", name], capture_output=True, check=True, text=True
            )
            members = (line.strip() for line in said.stdout.splitlines()[1:])
            yield from expanded([one for one in members if one and not one.startswith("#")])
        else:
            yield name


def settings(unit: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in unit.read_text().splitlines())
    return {key: value for key, equals, value in lines if equals and not key.startswith("#")}


def confine(unit: Path) -> None:
    wanted = settings(unit)
    assert wanted["SystemCallErrorNumber"] == "EPERM"
    allowed = set(expanded(["@default", *wanted["SystemCallFilter"].split()]))  # which systemd adds by itself
    other = Filter(ALLOW)
    if wanted["RestrictNamespaces"] == "yes":
        for flag in NAMESPACES:
            for call, place in (("unshare", 0), ("clone", 0), ("setns", 1)):
                other.add(ERRNO | errno.EPERM, call, (place, MASKED_EQUAL, flag, flag))
        other.add(ERRNO | errno.EPERM, "setns", (1, EQUAL, 0, 0))
        other.add(ERRNO | errno.ENOSYS, "clone3")
    families = {FAMILIES[name] for name in wanted["RestrictAddressFamilies"].split()}
    for family in set(range(46)) - families:
        other.add(ERRNO | errno.EAFNOSUPPORT, "socket", (0, EQUAL, family, 0))
    calls = Filter(ERRNO | errno.EPERM)
    for call in allowed:
        calls.add(ALLOW, call)
    other.load()
    calls.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
