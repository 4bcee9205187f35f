"""The seccomp profile: against the one that the distribution packages, and as the kernel runs it."""

from __future__ import annotations

import base64
import errno
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from portlayer.model.capabilities import NAMES
from portlayer.substrates.linux import capabilities, seccomp
from portlayer.substrates.linux import seccomp_profile as profile

PACKAGED = Path("/usr/share/containers/seccomp.json")  # of golang-github-containers-common
MACHINE = "x86_64"

# That profile is for engines which run containers within containers without privileges, ours has Docker's meaning:
STRICTER = {
    "making namespaces and mounts needs CAP_SYS_ADMIN": """clone clone3 fsconfig fsmount fsopen fspick mount
        mount_setattr move_mount open_tree setns umount umount2 unshare""",
    "the kernel's log needs CAP_SYSLOG": "syslog",
    "restarting the host needs CAP_SYS_BOOT": "reboot",
    "memory placement needs CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy",
    "another process's descriptors need CAP_SYS_PTRACE": "pidfd_getfd",
    "keyrings have no namespace": "keyctl",
    "nothing in a container changes its root": "pivot_root",
    "no system call of that name": "syscall",
    "vsock is in no network namespace": "socket",
}
WIDER = {
    "newer than that profile, and harmless": "futex_waitv io_pgetevents io_pgetevents_time64",
    "Docker allows it since 2022": "vmsplice",
}


def names(table: dict[str, str]) -> set[str]:
    return {name for words in table.values() for name in words.split()}


def allowed(rules: list[seccomp.Rule]) -> set[str]:
    """Calls that are allowed whatever their arguments."""
    return {name for rule in rules if not rule.errno and not rule.conditions for name in rule.names}


def packaged(granted: frozenset[str]) -> set[str]:
    found: set[str] = set()
    for rule in json.loads(PACKAGED.read_text())["syscalls"]:
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule["args"] and _applies(rule, granted):
            found |= set(rule["names"])
    return found


def _applies(rule: dict[str, Any], granted: frozenset[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    machines = includes.get("arches", ["amd64"])
    return (
        "amd64" in machines and set(includes.get("caps", [])) <= granted and not set(excludes.get("caps", [])) & granted
    )


@pytest.mark.skipif(not PACKAGED.exists(), reason="the package with the profile is not installed")
def test_the_same_names_as_the_packaged_profile() -> None:
    ours = allowed(seccomp.rules(capabilities.DEFAULT, MACHINE))
    theirs = packaged(capabilities.DEFAULT)
    assert theirs - ours == names(STRICTER)
    assert ours - theirs == names(WIDER)


@pytest.mark.skipif(not PACKAGED.exists(), reason="the package with the profile is not installed")
def test_with_all_capabilities_little_is_left_out() -> None:
    everything = frozenset(NAMES)
    left = packaged(everything) - allowed(seccomp.rules(everything, MACHINE))
    assert left == {"keyctl", "pivot_root", "query_module", "socket", "syscall"}


@pytest.mark.parametrize("granted", [capabilities.DEFAULT, frozenset(NAMES), frozenset[str]()])
def test_no_call_is_both_allowed_and_refused(granted: frozenset[str]) -> None:
    rules = seccomp.rules(granted, MACHINE)
    refused = {name for rule in rules if rule.errno and not rule.conditions for name in rule.names}
    assert not refused & {name for rule in rules if not rule.errno for name in rule.names}
    assert refused >= profile.NEVER


def test_every_capability_of_the_profile_exists() -> None:
    assert set(profile.BY_CAPABILITY) <= set(NAMES)


def test_oci_has_the_same_rules() -> None:
    decoded = msgspec.json.decode(bytes(seccomp.oci(capabilities.DEFAULT)))
    assert decoded["defaultErrnoRet"] == errno.ENOSYS
    found = {name for rule in decoded["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert {"read", "socket", "clone", "chroot"} <= found
    assert not {"mount", "clone3", "keyctl", "bpf"} & found
    clone = next(rule for rule in decoded["syscalls"] if rule["names"] == ["clone"])
    flags = {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0x7E02_0000, "valueTwo": 0}
    assert clone["args"] == [flags]


LOADER = """
import base64, ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
program = base64.b64decode(sys.argv[1])
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(len(program) // 8, program)), 0, 0) == 0
def call(*arguments):
    ctypes.set_errno(0)
    return 0 if libc.syscall(*map(ctypes.c_long, arguments)) >= 0 else ctypes.get_errno()
print(json.dumps([call(*arguments) for arguments in json.loads(sys.argv[2])]))
"""


def answers(granted: frozenset[str], calls: list[list[int]]) -> list[int]:
    """The errno of each of *calls* (number, arguments) in a process under the compiled filter."""
    done = subprocess.run(
        [sys.executable, "-c", LOADER, seccomp.bpf(granted), json.dumps(calls)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    found: list[int] = json.loads(done.stdout)
    return found


GETPID, SOCKET, CLONE, PERSONALITY, KEYCTL = 39, 41, 56, 135, 250
UNSHARE, IO_URING_SETUP, CLONE3, NONE = 272, 425, 435, 999
NEWUSER, NEWUTS = 0x10000000, 0x04000000


@pytest.mark.skipif(platform.machine() != MACHINE, reason="the numbers are of x86_64")
def test_the_kernel_agrees() -> None:
    eperm, enosys = errno.EPERM, errno.ENOSYS
    expected = [
        ([GETPID], 0),
        ([SOCKET, 1, 1, 0], 0),
        ([SOCKET, profile.AF_VSOCK, 1, 0], eperm),
        ([UNSHARE, NEWUTS], eperm),
        ([CLONE, NEWUSER, 0, 0, 0, 0], eperm),
        ([CLONE, NEWUSER | NEWUTS, 0, 0, 0, 0], eperm),
        ([CLONE3, 0, 0], enosys),
        ([KEYCTL, 0, 0], eperm),
        ([PERSONALITY, 0xFFFF_FFFF], 0),
        ([PERSONALITY, 0x0400_0000], enosys),
        ([IO_URING_SETUP, 1, 0], eperm),
        ([NONE], enosys),
    ]
    assert answers(capabilities.DEFAULT, [call for call, _ in expected]) == [answer for _, answer in expected]
    with_admin = capabilities.DEFAULT | {"CAP_SYS_ADMIN"}
    assert answers(with_admin, [[UNSHARE, NEWUTS]]) == [0]


def test_a_filter_is_compiled_once() -> None:
    first = seccomp.bpf(capabilities.DEFAULT)
    assert seccomp.bpf(frozenset(capabilities.DEFAULT)) is first
    assert len(base64.b64decode(first)) % 8 == 0
